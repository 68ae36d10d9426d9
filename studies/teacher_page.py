"""The page of all teachers: what was proved of each family, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

TWO_BLOCKS = 80_000_000
"""Transformers of more parameters are proved with two blocks: the head does not know how deep the body is."""

WHICH = ("own", "square", "wide")
"""A member is loaded at its own size, at another square, and at one that is wider than high."""

_INTRO = """# Teachers out of timm

Any classifier of timm can label, through its own, unmodified head: each location's vector goes through it as if the
whole image looked like that. Each time a teacher is loaded, before it labels anything, that is proved:

- **linear**: the mean of the dense logits over the cells is the model's own answer for the image;
- **constant-field**: for features made equal everywhere, every cell's answer is the model's own. This holds for linear
  heads too, and is all that can be asked of others: norms after the pool, MLPs, class tokens, attention;
- **repeated**: a constant-field head that knows places (a position embedding in its pool), so that it is run over a
  whole grid for every cell: right by definition, and slow, which a warning says;
- **places**: a change in each corner of an image shows most in that corner's cell. Where it plainly shows elsewhere the
  teacher is refused; where it shows nowhere in particular it is loaded with a warning ("no" below). That is said of
  random weights and noise: trained ones may do better, so look at some maps.

Errors are relative to the spread of the model's logits over the classes, in float32; 1e-4 is allowed.

Two more things are asked of a head that reads class tokens, since features that are made equal everywhere are answered
right by any such head:

- the class token must be of one kind with the locations that take its place: from some earlier place of the model on,
  equal slots must stay equal, and the locations must reach it. Class attention (CaiT, XCiT, VOLO) fails this at its
  last norm, where a map would mean nothing: the map is taken before class attention, or the teacher refused;
- **agreement**, the correlation over the classes between the mean of an image's map and the model's own answer to it: 1
  where the head is linear. Below 0.5 a warning is logged. At random weights it says little: class tokens start from
  random numbers of their own, and right maps (CrossViT, CoaT, ConViT, TNT) lie as low as wrong ones.

The same model has the same map whoever brings it: by name, as `package.module:function`, with a module around it, or as
transformers' `timm_wrapper`. CaiT, XCiT, VOLO, distilled DeiT, ConvNeXt and ViT were compared so, the last two as
torchvision's and transformers' own, too: 1e-6 apart at most.

Teachers out of torchvision and transformers have [a page of their own](teachers_other.md).
"""

_TABLE = """## How to read the table

Written by `studies/teacher_coverage.py`. A family is a class of a module of timm with one path from features to logits:
how it pools, which tokens stand before the locations, which modules follow. Its smallest model was built with random
weights, none left at a constant, and loaded as a run loads its teacher, at three sizes (its own, a smaller square, and
a wide one), and a second one at its own size where it has fewer than 25 million parameters. `error` is the largest of
all, of what was proved. Transformers of more than 80 million parameters were built with two blocks.

`other sizes` says how a family takes `--image-size`: *as is*, or *set_input_size*, by which timm resamples position
embeddings and sets windows, or *own only*. `head` is what the dense answer costs beyond the model's own, in
multiplications, for that smallest model (of less than 80 million parameters): the larger the model, the smaller the
share. † marks families with lines of their own in `teacher/heads/families.py`; ‡ those of which timm builds some
models without a classifier, which need `--checkpoint` with weights that have one.
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A model that timm lists; `own_hw` is its own input's (height, width)."""

    name: str
    parameters: int
    own_hw: tuple[int, int]
    has_classifier: bool


@dataclass(frozen=True, slots=True)
class Family:
    """Models whose features go the same way to the logits, smallest first."""

    module: str
    kind: str
    pool: str
    prefix: str
    head: str
    members: Sequence[Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """What came of loading one member at one size; `refused` is the error, if any."""

    size_hw: tuple[int, int]
    refused: str = ""
    grid_hw: tuple[int, int] = (0, 0)
    kind: str = ""
    linear_error: float = 0.0
    constant_error: float = 0.0
    localises: bool = False
    repeated: bool = False
    agreement: float = 0.0
    own_lines: str = ""
    resizes: bool = False
    cost: float | None = None

    @property
    def error(self) -> float:
        """Of what was proved."""
        return max(self.constant_error, self.linear_error if self.kind == "linear" else 0)


Results = Mapping[tuple[str, str], Proved]
"""By a member's name and one of `WHICH`."""


def write_page(families: Sequence[Family], results: Results, timm_version: str) -> str:
    """The page in Markdown."""
    proved = [f for f in families if not any(each.refused for each in _at_own_size(f, results))]
    refused = [f for f in families if f not in proved]
    counts = "\n".join(_counts(families, proved, results, timm_version))
    lines = [_INTRO, "## Counts\n", counts, "", _TABLE]
    lines += [
        "| family | models | features to logits | proved with | input, grid, stride | proof | error | agreement "
        "| places | other sizes | head |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(row(family, results) for family in proved),
        "\n## Refused\n",
        *(_refusal(family, results) for family in refused),
    ]
    return "\n".join(lines) + "\n"


def _counts(families: Sequence[Family], proved: Sequence[Family], results: Results, timm_version: str) -> Iterator[str]:
    own = [results[f.members[0].name, "own"] for f in proved]
    total, reached = _models(families), _models(proved)
    yield f"- timm {timm_version} lists {total:,} models, in {len(families)} families;"
    yield f"- {reached:,} of them, {100 * reached / total:.1f} %, are in the {len(proved)} families that are proved:"
    loads = [each for each in results.values() if not each.refused]
    kinds = [("repeated" if each.repeated else each.kind) for each in own]
    for kind in ("linear", "constant-field", "repeated"):
        count = _models([f for f, k in zip(proved, kinds, strict=True) if k == kind])
        yield f"  - {kind}: families {kinds.count(kind)}, models {count:,};"
    members = {name for (name, _), each in results.items() if not each.refused}
    worst = max(each.error for each in loads)
    yield f"- by {len(loads)} proofs of {len(members)} models, the largest error of any {worst:.0e};"
    special = [each.own_lines for each in own if each.own_lines]
    kinds_of_lines = ", ".join(sorted(set(special)))
    yield f"- {len(special)} families need lines of their own ({kinds_of_lines}), and share them;"
    without = sum(not m.has_classifier for f in proved for m in f.members)
    yield f"- {without} of the models in proved families are built without a classifier, and were given one;"
    wide = [f for f in proved if not results[f.members[0].name, "wide"].refused]
    yield f"- {len(wide)} families ({_models(wide):,} models) take other sizes than their own, square or not."


def _models(families: Sequence[Family]) -> int:
    return sum(len(family.members) for family in families)


def _at_own_size(family: Family, results: Results) -> list[Proved]:
    """What came of the family's smallest models."""
    return [results[m.name, "own"] for m in family.members[:2] if (m.name, "own") in results]


def row(family: Family, results: Results) -> str:
    """The family's row of the table."""
    found = {which: results[family.members[0].name, which] for which in WHICH}
    own = found["own"]
    at_own = _at_own_size(family, results)
    taken = [*at_own, *(found[w] for w in WHICH[1:] if not found[w].refused)]
    names = [member.name for member, _ in zip(family.members, at_own, strict=False)]
    marks = ("†" if own.own_lines else "") + ("" if all(m.has_classifier for m in family.members) else "‡")
    prefix = "" if family.prefix == "none" else f" ({family.prefix})"
    stride = f"{own.size_hw[0] / own.grid_hw[0]:.3g}"
    cells = [
        f"{family.module}.{family.kind}{marks}",
        str(len(family.members)),
        f"{family.pool}{prefix}: {family.head}".rstrip(": "),
        ", ".join(names),
        f"{_size(own.size_hw)}, {_size(own.grid_hw)}, {stride}",
        "repeated" if own.repeated else own.kind,
        "none, by definition" if own.repeated else f"{max(each.error for each in taken):.0e}",
        f"{own.agreement:.2f}",
        "yes" if all(each.localises for each in taken) else "no",
        _other_sizes(found),
        ""
        if own.cost is None or family.members[0].parameters > TWO_BLOCKS
        else f"+{100 * own.cost:.{0 if own.cost > 0.1 else 1}f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def _other_sizes(found: Mapping[str, Proved]) -> str:
    taken = [f"{_size(found[w].size_hw)}: {_size(found[w].grid_hw)}" for w in WHICH[1:] if not found[w].refused]
    if not taken:
        return "own only"
    return f"{'set_input_size' if found['own'].resizes else 'as is'}, {', '.join(taken)}"


def _size(size_hw: tuple[int, int]) -> str:
    return "x".join(map(str, size_hw))


def _refusal(family: Family, results: Results) -> str:
    names = ", ".join(sorted(member.name for member in family.members))
    why = next(each.refused for each in _at_own_size(family, results) if each.refused)
    return f"- {family.module}.{family.kind}: {names}. {why}"
