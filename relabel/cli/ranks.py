"""Which share of a run this process has, from its options or from what launched it."""

from __future__ import annotations

from collections.abc import Mapping

import click

_LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    # Not SLURM_NTASKS: a batch script has that too, with SLURM_PROCID 0, and is alone unless it calls srun. Only srun
    # sets the number of tasks of a step.
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}


def rank_and_world_size(rank: int | None, world_size: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """This process among the run's processes: as given, else as torchrun or srun says, else the only one.

    A share that the environment decides is told on stderr, for a process that labels less than all must never do so
    unseen.
    """
    if rank is not None and world_size is not None:
        return _checked(rank, world_size, "--rank and --world-size")
    if rank is not None or world_size is not None:
        raise click.UsageError("give --rank and --world-size together: one without the other labels the wrong share")
    for launcher, names in _LAUNCHERS.items():
        values = [environment.get(name, "") for name in names]
        if not all(values):
            continue
        if not all(value.isascii() and value.isdecimal() for value in values):
            raise click.UsageError(f"{' and '.join(names)} must be numbers; got {' and '.join(map(repr, values))}")
        share = _checked(int(values[0]), int(values[1]), " and ".join(names))
        if share[1] > 1:
            click.echo(f"process {share[0]} of {share[1]} ({launcher}): labels its share of the shards", err=True)
        return share
    return 0, 1


def _checked(rank: int, world_size: int, names: str) -> tuple[int, int]:
    if not 0 <= rank < world_size:
        raise click.UsageError(f"{names} must be a rank in [0, world size); got {rank} of {world_size}")
    return rank, world_size
