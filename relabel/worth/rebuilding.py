"""From a manifest to the teachers that made its store: what it records, and what only the user can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from relabel.errors import TeacherError
from relabel.manifest import Decode, Manifest, MemberRecord
from relabel.options import declared, for_each
from relabel.teacher import EnsembleSpec, TeacherSpec
from relabel.teacher.devices import find_device
from relabel.teacher.spec import Precision
from relabel.worth.options import RerunOptions

_SHOWN = 12


def recorded_members(manifest: Manifest) -> list[MemberRecord]:
    """Every forward pass that a manifest tells of, but for mirrored ones.

    Raises:
        TeacherError: another program made the maps, and did not say how images were made ready for its teacher.
    """
    if manifest.preprocessing is None:
        raise TeacherError(
            f"the store was written by another program (teacher {manifest.teacher.name!r}), so there is no teacher to "
            "run again; `relabel verify shards` checks all else"
        )
    return [MemberRecord(teacher=manifest.teacher, preprocessing=manifest.preprocessing), *manifest.others]


def rerun_spec(manifest: Manifest, options: RerunOptions) -> EnsembleSpec:
    """The teachers of a manifest, with what the options say otherwise.

    Raises:
        TeacherError: something is needed that only the user knows; says what.
        InvalidValueError: an option has neither as many values as there are teachers, nor one that serves all.
    """
    members = _renamed(recorded_members(manifest), options.teachers)
    # One teacher at several sizes is several members, and one to whoever types its name.
    identities = [(m.teacher.name, m.teacher.weights_digest, m.teacher.kept) for m in members]
    distinct = list(dict.fromkeys(identities))
    places = list(range(len(members))) if options.teachers else [distinct.index(identity) for identity in identities]
    count = max(places) + 1
    asked = {o.name: for_each(o, getattr(options, o.name), count) for o in declared(RerunOptions) if o.is_many}
    device = find_device(options.device)
    teachers = tuple(
        TeacherSpec(
            name=member.teacher.name,
            **_weights(
                member, asked["checkpoints"][place], asked["random_weights"][place], is_given=bool(options.checkpoints)
            ),
            **_pixels(member, device),
            image_size_hw=asked["image_sizes_hw"][place] or member.preprocessing.image_size_hw,
            classes=asked["classes"][place] if options.classes else _classes(member),
            precision=options.precision or _precision(member, device),
            device=options.device,
        )
        for member, place in zip(members, places, strict=True)
    )
    return EnsembleSpec(teachers=teachers, flip=manifest.flip_average, grid_hw=manifest.scores.grid_hw)


def _renamed(members: list[MemberRecord], names: Sequence[str]) -> list[MemberRecord]:
    """The members with other teachers in their places; of further ones the preprocessing is the last member's."""
    like = [members[min(i, len(members) - 1)] for i in range(len(names))]
    return [
        # Nothing that was recorded of the one says anything of the other.
        replace(member, teacher=replace(member.teacher, name=name, weights="pretrained", seed=None, kept=None))
        for member, name in zip(like, names, strict=True)
    ] or members


def _weights(member: MemberRecord, checkpoint: Path | None, seed: int | None, *, is_given: bool) -> dict[str, Any]:
    """`checkpoint` or `random_weights` of a spec, or none of them for a teacher's own weights."""
    weights = member.teacher.weights
    if is_given or seed is not None:
        return {"checkpoint": checkpoint, "random_weights": seed}
    if weights in ("pretrained", "own", "random"):
        return {"random_weights": member.teacher.seed}
    raise TeacherError(
        f"the manifest says that {member.teacher.name} ran with the weights {weights!r} (sha256 "
        f"{member.teacher.weights_digest[:_SHOWN]}), and not where they are: give --checkpoint FILE, or --teacher NAME "
        "where that is no name of a teacher"
    )


def _pixels(member: MemberRecord, device: torch.device) -> dict[str, Any]:
    """What a spec says of the images. A GPU's decoder is asked for only where there is one."""
    seen = member.preprocessing
    decode: Decode = seen.decode if device.type == "cuda" else "cpu"
    return {
        "fit": seen.fit,
        "crop": seen.crop if seen.fit == "center" else None,
        "mean": seen.mean,
        "std": seen.std,
        "interpolation": seen.interpolation,
        "decode": decode,
    }


def _classes(member: MemberRecord) -> str | None:
    """The subset of classes that a record names; files are not kept in it."""
    kept = member.teacher.kept
    if kept is not None and kept.selection == "file":
        raise TeacherError(
            f"the manifest says that {member.teacher.name} kept {kept.count} of {kept.of} classes by a file (sha256 "
            f"{kept.digest[:_SHOWN]}): give it as --classes FILE"
        )
    return None if kept is None else kept.selection


def _precision(member: MemberRecord, device: torch.device) -> Precision:
    """The recorded precision; on a CPU, where it gains nothing, float32."""
    choices: tuple[Precision, ...] = get_args(Precision)
    recorded = [choice for choice in choices if choice == member.teacher.precision]
    return "float32" if device.type == "cpu" else (*recorded, choices[0])[0]
