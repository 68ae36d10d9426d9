"""Which timm models can be teachers: every family proved by its smallest members, written to ``docs/teachers.md``.

Builds every name that timm lists on the meta device, sorts them into families by the path from features to logits,
and loads the smallest members of each with random weights as `relabel generate` would: at their own size, at another
and at one that is not square. Takes about an hour on two cores; what is in ``--cache`` is not measured again.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from relabel.errors import TeacherError
from relabel.teacher import Teacher, TeacherSpec, load_teacher
from relabel.teacher.weights import randomise
from studies.teacher_page import TWO_BLOCKS, Family, Member, Proved, row, write_page

_HEADS = (
    *("norm", "final_conv", "conv_head", "norm_head", "act2", "attn_pool", "aggregate", "fc_norm", "pre_logits"),
    *("head", "head_dist", "heads", "heads_dist", "aux_head", "classifier", "fc", "last_linear", "classif"),
)
"""What timm calls the modules between features and logits."""

_TRIVIAL = (nn.Identity, nn.Dropout, nn.Flatten)
_CLASSES = 1000

_SMALL = 25_000_000
"""A family's second member is proved too where it has fewer parameters than this."""


def main() -> None:
    """Survey, prove what the cache lacks, write the page."""
    options = _options()
    options.cache.mkdir(parents=True, exist_ok=True)
    families = [f for f in _families(options.cache) if options.only in f"{f.module}.{f.kind}"]
    wanted = [
        (member, which)
        for family in families
        for place, member in enumerate(family.members[:2])
        if place == 0 or member.parameters < _SMALL
        for which in (("own", "square", "wide") if place == 0 else ("own",))
    ]
    part, parts = options.part
    mine = sorted(wanted, key=lambda each: each[0].parameters)[part - 1 :: parts]
    for place, (member, which) in enumerate(mine):
        file = options.cache / f"{member.name}-{which}.json"
        if not file.exists():
            started = time.perf_counter()
            found = _proved(member, which)
            file.write_text(json.dumps(found), encoding="utf-8")
            print(
                f"{place + 1}/{len(mine)} {file.stem} {time.perf_counter() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    results = {
        (m.name, which): Proved(**json.loads(file.read_text(encoding="utf-8")))
        for m, which in wanted
        if (file := options.cache / f"{m.name}-{which}.json").exists()
    }
    if missing := len(wanted) - len(results):
        print(f"{missing} proofs are not in {options.cache}: no page written; run again", file=sys.stderr)
        return
    if options.only:
        print(*(row(family, results) for family in families), sep="\n")
        return
    options.page.write_text(write_page(families, results, timm.__version__), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    page = Path(__file__).parents[1] / "docs" / "teachers.md"
    parser.add_argument("--cache", type=Path, required=True, help="folder of what was measured before")
    parser.add_argument("--only", default="", metavar="NAME", help="families whose name holds it; prints their rows")
    parser.add_argument("--page", type=Path, default=page, help="what is written [docs/teachers.md]")
    parser.add_argument("--part", type=_part, default=(1, 1), help="i/n: prove every n-th, from the i-th on")
    return parser.parse_args()


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    return int(part), int(parts)


def _families(cache: Path) -> list[Family]:
    """Every listed model by family, smallest first."""
    file = cache / f"survey-{timm.__version__}.json"
    if not file.exists():
        print(f"building {len(timm.list_models())} models on the meta device", file=sys.stderr, flush=True)
        file.write_text(json.dumps([_surveyed(name) for name in timm.list_models()]), encoding="utf-8")
    by_key: dict[tuple[str, ...], list[Member]] = defaultdict(list)
    for key, member in json.loads(file.read_text(encoding="utf-8")):
        by_key[tuple(key)].append(Member(**member))
    return [
        Family(module, kind, pool, prefix, head, sorted(found, key=lambda m: m.parameters))
        for (module, kind, pool, prefix, head), found in sorted(by_key.items())
    ]


def _surveyed(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """What determines a model's path from features to logits, and the model itself."""
    with torch.device("meta"):
        model: Any = timm.create_model(name)
        has_classifier = bool(model.num_classes)
        if not has_classifier:
            model = timm.create_model(name, num_classes=_CLASSES)
    prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
    key = (
        type(model).__module__.rpartition(".")[2],
        type(model).__name__,
        _pool(model),
        ("none", "class")[prefix] if prefix < 2 else "class and registers",
        " ".join(_head_parts(model)),
    )
    return key, {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "own_hw": tuple(model.pretrained_cfg["input_size"][1:]),
        "has_classifier": has_classifier,
    }


def _pool(model: Any) -> str:
    pools = (getattr(holder, "global_pool", None) for holder in (model, getattr(model, "head", None)))
    pool = next((p for p in pools if p is not None), "avg")
    return pool if isinstance(pool, str) else str(getattr(pool, "pool_type", "avg"))


def _head_parts(model: nn.Module) -> Iterator[str]:
    for name in _HEADS:
        part = getattr(model, name, None)
        if not isinstance(part, nn.Module) or isinstance(part, _TRIVIAL):
            continue
        inner = [n for n, child in part.named_children() if not isinstance(child, _TRIVIAL) and n != "global_pool"]
        is_whole = name == "head" and inner and not isinstance(part, nn.ModuleList | nn.Sequential)
        yield f"{name}({' '.join(inner)})" if is_whole else name


def _sizes(own_hw: tuple[int, int], which: str) -> list[tuple[int, int]]:
    """Sizes to try, the first that is taken counts; each is a multiple of 32 or 28, for patches of 14."""
    own = own_hw[0]
    if which == "own":
        return [own_hw]
    sides = [max(own * 3 // 4 // step, 1) * step for step in (32, 28)] + [2 * own]
    return [(side, side) if which == "square" else (side, own) for side in dict.fromkeys(sides)]


def _proved(member: Member, which: str) -> dict[str, Any]:
    """Load a member at the first size that it takes, as a user would."""
    said: list[str] = []
    for size_hw in _sizes(member.own_hw, which):
        try:
            with tempfile.TemporaryDirectory() as folder, _two_blocks(member):
                teacher = load_teacher(_spec(member, None if which == "own" else size_hw, Path(folder)))
            return _described(teacher, with_cost=which == "own")
        except TeacherError as error:
            said.append(str(error))
        finally:
            gc.collect()
    return {"size_hw": _sizes(member.own_hw, which)[0], "refused": said[0]}


def _spec(member: Member, size_hw: tuple[int, int] | None, folder: Path) -> TeacherSpec:
    """Random weights; from a file where timm's model has no classifier of its own."""
    if member.has_classifier:
        return TeacherSpec(name=member.name, random_weights=0, image_size_hw=size_hw, device="cpu")
    model = timm.create_model(member.name, num_classes=_CLASSES)
    torch.manual_seed(0)
    randomise(model)
    torch.save(model.state_dict(), folder / "weights.pt")
    return TeacherSpec(name=member.name, checkpoint=folder / "weights.pt", image_size_hw=size_hw, device="cpu")


@contextmanager
def _two_blocks(member: Member) -> Iterator[None]:
    """Build a model that is large for this with a body of two blocks, where its class takes a depth."""
    create = timm.create_model
    shallow = partial(create, depth=2)
    if member.parameters > TWO_BLOCKS:
        with torch.device("meta"), suppress(TypeError):
            shallow(member.name)
            timm.create_model = shallow
    try:
        yield
    finally:
        timm.create_model = create


def _described(teacher: Teacher, with_cost: bool) -> dict[str, Any]:
    proof = teacher.proof
    dense: Any = teacher.forward
    inner = getattr(dense.model, "model", dense.model)
    return {
        "size_hw": teacher.preprocessing.image_size_hw,
        "grid_hw": teacher.grid.size_hw,
        "kind": proof.kind,
        "linear_error": proof.linear_error,
        "constant_error": proof.constant_error,
        "localises": proof.localises,
        "repeated": proof.repeated,
        "agreement": proof.agreement,
        "own_lines": type(dense.model).__name__ if dense.model.__module__.startswith("relabel.") else "",
        "resizes": hasattr(inner, "set_input_size"),
        "cost": _cost(teacher) if with_cost else None,
    }


def _cost(teacher: Teacher) -> float:
    """Multiplications of a dense answer over those of the model's own, less one."""
    dense: Any = teacher.forward
    images = torch.zeros(1, 3, *teacher.preprocessing.image_size_hw)
    counts: list[int] = []
    for run in (dense, dense.model):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(images)
        counts.append(counter.get_total_flops())
    return counts[0] / counts[1] - 1


if __name__ == "__main__":
    main()
