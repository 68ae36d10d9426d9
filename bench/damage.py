"""Damage to stores, by the thousand: is it found, is a wrong label ever served, is good data blamed, is all mended?

``make damage``, or ``python -m bench.damage --count 3000``. Four small stores, of both compressions, with one footprint
and with one a row. After each damage the store is verified; every key is looked up by a loader; then the store is
repaired and the run that made it repeated, and every byte must be as it was. The same seed does the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import relabel
from bench.damage_kinds import GOOD, KINDS, Ground, Touched
from relabel.errors import LabelError, RelabelError
from relabel.generate import GenerateOptions, generate
from relabel.geometry import Grid
from relabel.manifest import Compression, Fit, Preprocessing, TeacherRecord
from relabel.store import read_manifest
from relabel.teacher import Teacher
from relabel.teacher.proof import Proof
from relabel.verify import ShardsOptions, verify_shards

_CLASSES, _GRID = 10, Grid(3, 4)
_COUNTS = (6, 6, 5, 6)
_ENDS_BYTES = 64
"""In place of 4,096, so that files of a few rows have a middle that small reads do not see."""
STORES: tuple[tuple[Compression, Fit], ...] = tuple(itertools.product(("zstd", "none"), ("squash", "letterbox")))
_FORBIDDEN = "not to be read (chmod 000)"
_NOBODY = 65_534
_BOX = torch.tensor([[0.1, 0.2, 0.8, 0.9]])


@dataclass(slots=True)
class Tally:
    """What became of the damages of a kind.

    Attributes:
        n: how many.
        found: by `verify shards`.
        harmless: not found, and nothing that is served or told of the store is another.
        refused: by a loader, at once or at the first row that is not to be trusted.
        wrong: a loader served a label that is another's.
        alarms: a shard that was not touched was called damaged.
        crashed: something else than one of relabel's own errors was raised.
        mended: every byte is as it was after the repair and the run.
    """

    n: int = 0
    found: int = 0
    harmless: int = 0
    refused: int = 0
    wrong: int = 0
    alarms: int = 0
    crashed: int = 0
    mended: int = 0


@dataclass(frozen=True, slots=True)
class Base:
    """A store as it was made, what it serves, and how to make it again."""

    name: str
    path: Path
    images: str
    teacher: Teacher
    options: GenerateOptions
    others: Mapping[str, Path]
    served: Mapping[str, Any]
    contents: Mapping[str, bytes]


@dataclass(slots=True)
class Campaign:
    """Tallies by kind, and the first cases that went wrong."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(
    folder: Path, names: Sequence[str], seed: int = 0, stores: Sequence[tuple[Compression, Fit]] = STORES
) -> Campaign:
    """Make stores in a folder, and damage one of them after the other, in the ways that are named."""
    with _small_ends():
        bases = [_base(folder / f"{compression}-{fit}", compression, fit) for compression, fit in stores]
        chance, campaign = random.Random(seed), Campaign({name: Tally() for name in names})
        for number, name in enumerate(names):
            _case(chance.choice(bases), name, random.Random(f"{seed}/{number}"), campaign)
            if number % 250 == 249:
                print(f"{number + 1} of {len(names)}", file=sys.stderr)
    return campaign


def _case(base: Base, name: str, chance: random.Random, campaign: Campaign) -> None:
    """One damage, and what becomes of it."""
    store = base.path
    manifest = read_manifest(store)
    tally = campaign.tallies[name]
    tally.n += 1
    ground = Ground(store, manifest, base.others, chance)
    touched = {**KINDS, **GOOD}[name](ground)
    while name in KINDS and name != _FORBIDDEN and _contents(store) == base.contents:
        # Two files that are the same may be swapped as often as one likes.
        touched = KINDS[name](ground)

    def note(what: str) -> None:
        campaign.notes.append(f"{name} ({base.name}): {what}")

    try:
        with _as_nobody(name):
            found = _found(store, touched, name, tally, note)
            _serve(base, found, name, tally, note)
        if found:
            tally.found += 1
            with contextlib.suppress(RelabelError):
                verify_shards(store, options=ShardsOptions(repair=True), workers=1, show_progress=False)
            _what_a_user_does(store, base)
            with contextlib.suppress(RelabelError):
                generate(base.images, store, base.teacher, base.options)
            if _contents(store) == base.contents:
                tally.mended += 1
            else:
                note(f"not mended: {_difference(_contents(store), base.contents)}")
    # Whatever is raised, the campaign goes on, and tells.
    except Exception as error:  # noqa: BLE001
        tally.crashed += 1
        note(f"{type(error).__name__}: {error}")
    if _contents(store) != base.contents or any(file.is_symlink() for file in store.rglob("*")):
        _reset(base)


def _found(store: Path, touched: Touched, name: str, tally: Tally, note: Callable[[str], None]) -> bool:
    """Whether a verification says that anything is wrong; notes good shards that are blamed."""
    try:
        report = verify_shards(store, workers=1, show_progress=False)
    except RelabelError:
        return True
    blamed = {finding.shard for finding in report.findings if finding.shard >= 0} - touched
    if blamed or (name in GOOD and report.findings):
        tally.alarms += 1
        note(f"blamed: {report.findings[0]}")
    return not report.is_clean


def _serve(base: Base, found: bool, name: str, tally: Tally, note: Callable[[str], None]) -> None:
    """Look every key up, alone and together, as a loader does."""
    served, errors = _served(base.path, list(base.served))
    if name == "a whole shard of a rerun of the same identity":
        # It is what the same teacher said of the same images: right, but for a pinned digest.
        tally.harmless += not found
        return
    wrong = [key for key, value in served.items() if not _same(value, base.served[key])]
    tally.refused += bool(errors)
    if wrong:
        tally.wrong += 1
        note(f"served wrong: {wrong[0]}")
    elif not found and not errors:
        tally.harmless += 1
    elif not found:
        note(f"not found, and refused: {errors[0]}")


def _served(path: Path, keys: list[str]) -> tuple[dict[str, Any], list[RelabelError]]:
    """What is served of each key, and what was raised instead."""
    served: dict[str, Any] = {}
    errors: list[RelabelError] = []
    try:
        maps = relabel.open(path)
    except RelabelError as error:
        return served, [error]
    for key in keys:
        try:
            score_map = maps[maps.rows([key])]
            served[key] = (*_tensors(score_map), score_map.pool(_BOX))
        except LabelError as error:
            served[key] = str(error)
        except RelabelError as error:
            errors.append(error)
    try:
        good = [key for key in keys if not isinstance(served.get(key), (str, type(None)))]
        together = _tensors(maps[maps.rows(good)])
        for number, key in enumerate(good):
            served[key] = (*(part[number : number + 1] for part in together), served[key][-1])
    except RelabelError as error:
        errors.append(error)
    return served, errors


def _tensors(score_map: relabel.ScoreMap) -> list[Tensor]:
    parts = [score_map.classes, score_map.planes, score_map.rest, score_map.profile]
    if isinstance(score_map.footprint, Tensor):
        parts.append(score_map.footprint)
    return [part for part in parts if part is not None]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str)
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _what_a_user_does(store: Path, base: Base) -> None:
    """What no command does: permissions, and files that are not relabel's."""
    with contextlib.suppress(FileNotFoundError):
        for file in [*store.rglob("*")]:
            if not file.is_symlink() and (file.is_file() or file.is_dir()):
                file.chmod(0o755 if file.is_dir() else 0o644)
    known = {Path(name) for name in base.contents}
    known |= {parent for name in known for parent in name.parents}
    for file in sorted(store.rglob("*"), reverse=True):
        if file.relative_to(store) not in known:
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()


def _contents(store: Path) -> dict[str, bytes]:
    """Every file by its name; what is none, by what it is."""
    found = {}
    for file in sorted(store.rglob("*")):
        if file.is_symlink() or not file.is_dir():
            found[str(file.relative_to(store))] = file.read_bytes() if file.is_file() else b"no file"
    return found


def _difference(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)][:5]


def _reset(base: Base) -> None:
    """The store as it was made."""
    if base.path.exists():
        _what_a_user_does(base.path, base)
        shutil.rmtree(base.path)
    shutil.copytree(base.others["whole"], base.path)
    for left in (base.path.parent / "moved", base.path.parent / f".{base.path.name}.lock"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_nobody(name: str) -> Iterator[None]:
    """The superuser may read what nobody may."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0 and name == _FORBIDDEN
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@contextlib.contextmanager
def _small_ends() -> Iterator[None]:
    modules = [module for name, module in sys.modules.items() if name.startswith("relabel.store.")]
    before = {module: module.ENDS_BYTES for module in modules if hasattr(module, "ENDS_BYTES")}
    for module in before:
        module.ENDS_BYTES = _ENDS_BYTES  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, value in before.items():
            module.ENDS_BYTES = value  # type: ignore[attr-defined]


def _base(folder: Path, compression: Compression, fit: Fit) -> Base:
    """A store, and beside it one of another teacher, another run, a rerun, and other images of the same keys."""
    folder.mkdir(parents=True)
    images = _tars(folder / "photos", seed=0)
    others = _tars(folder / "other photos", seed=1000)
    options = GenerateOptions(
        planes=3, profile=4, batch_size=8, workers=1, show_progress=False, compression=compression, max_failures=1.0
    )
    coarse = replace(options, step=1.0)
    teacher = _teacher(fit, "one", 0.0)
    made = {
        "whole": (images, teacher, options),
        "teacher": (images, _teacher(fit, "another", 1.0), options),
        "run": (images, teacher, coarse),
        "rerun": (images, _teacher(fit, "one", 0.3), options),
        "images": (others, teacher, options),
    }
    for name, (source, answers, how) in made.items():
        generate(source, folder / name, answers, how)
    shutil.copytree(folder / "whole", folder / "store")
    keys = [key for shard in range(len(_COUNTS)) for key in _keys(shard)]
    served, _ = _served(folder / "store", keys)
    paths = {name: folder / name for name in made}
    return Base(folder.name, folder / "store", images, teacher, options, paths, served, _contents(folder / "store"))


def _keys(shard: int) -> list[str]:
    return [f"{shard}/{number}" for number in range(_COUNTS[shard])]


def _tars(folder: Path, seed: int) -> str:
    """A tar a shard, of pictures that differ in their colours; one is cut."""
    folder.mkdir()
    for shard in range(len(_COUNTS)):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number, key in enumerate(_keys(shard)):
                random_ = np.random.default_rng(seed + 100 * shard + number)
                small = Image.fromarray(random_.integers(0, 256, (3, 4, 3), dtype=np.uint8))
                stream = io.BytesIO()
                small.resize((36, 24 + 6 * (number % 2))).save(stream, "PNG")
                data = stream.getvalue()[: 40 if (shard, number) == (1, 2) else None]
                for name, content in ((f"{key}.png", data), (f"{key}.cls", str(number % _CLASSES).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return str(folder / "*.tar")


def _teacher(fit: Fit, name: str, turn: float) -> Teacher:
    """Logits of each cell's colours; `turn` makes others of them."""
    record = TeacherRecord(
        source="function", name=name, weights="own", weights_digest="0" * 64, head="given"
    )  # fmt: skip

    def forward(images: Tensor) -> Tensor:
        red, green, blue = nn.functional.avg_pool2d(images, 8)[:, :, None].unbind(1)
        phase = torch.arange(_CLASSES)[None, :, None, None] + turn
        return 8 * (torch.sin(phase + 3 * red) + torch.cos(2 * phase + 5 * green) - blue * (phase % 3))

    return Teacher(
        forward=forward,
        num_classes=_CLASSES,
        grid=_GRID,
        preprocessing=Preprocessing(image_size_hw=(24, 32), mean=(0.5,) * 3, std=(1.0,) * 3, fit=fit),
        record=record,
        proof=Proof("given", 0.0, 0.0, True),
        device=torch.device("cpu"),
    )


def table(campaign: Campaign) -> str:
    """A line a kind, and their sums."""
    names = [f.name for f in fields(Tally)]
    rows = [(kind, *(getattr(tally, name) for name in names)) for kind, tally in campaign.tallies.items() if tally.n]
    damages = [row for row in rows if row[0] in KINDS]
    rows.append(("all damages", *(sum(row[i] for row in damages) for i in range(1, len(names) + 1))))
    head = f"{'kind':<48}" + "".join(f"{name:>10}" for name in names)
    return "\n".join([head, "-" * len(head), *(f"{row[0]:<48}" + "".join(f"{v:>10}" for v in row[1:]) for row in rows)])


def main() -> None:
    """Damage, and print a table or JSON; exits with 1 if anything was served wrong, missed, blamed or not mended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="damages (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="relabel-damage-") as folder:
        Path(folder).chmod(0o755)
        every = [*KINDS, *GOOD]
        campaign = run(Path(folder), [every[i % len(every)] for i in range(options.count)], options.seed)
    if options.json:
        tallies = {kind: asdict(tally) for kind, tally in campaign.tallies.items()}
        print(json.dumps({"seed": options.seed, "kinds": tallies, "notes": campaign.notes}, indent=2))
    else:
        print(table(campaign))
        print(*campaign.notes[:40], sep="\n")
        print(f"{options.count} damages, seed {options.seed}, {time.perf_counter() - started:.0f} s")
    sys.exit(bool(campaign.notes))


if __name__ == "__main__":
    main()
