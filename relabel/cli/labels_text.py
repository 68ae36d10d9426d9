"""What ``relabel verify labels`` prints."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relabel.cli.text import aligned, findings_text, table
from relabel.paths import printable

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.manifest import ClassSpaces
    from relabel.worth import LabelLine, LabelsReport, SizesReport
    from relabel.worth.readings import ReadingReport

_WIDTH = 118
_COLUMNS = (
    ("KL", "kl_teacher", ",.3f"),
    ("+-", "kl_teacher_error", ",.3f"),
    ("top-1", "agreement_teacher", ".1%"),
    ("KL", "kl_full", ",.3f"),
    ("top-1", "agreement_full", ".1%"),
    ("truth", "agreement_truth", ".1%"),
    ("entropy", "entropy", ",.2f"),
    ("bytes", "bytes_an_image", ",.0f"),
)
"""Of numbers: heading, field and format."""
_GROUPS: tuple[tuple[str, ...], ...] = (
    ("teacher", "limit"),
    ("stored",),
    ("size",),
    ("whole image", "swapped", "published"),
    ("truth",),
)


def labels_text(report: LabelsReport) -> str:
    """Findings and their causes, the table, and what to do."""
    height, width = report.crop_size_hw
    scores = report.scores
    head = "its own head" if report.is_own_answer else "the mean over its map of them"
    facts = {
        "teacher": report.teacher,
        "maps": f"none of {report.images} sampled images was found: nothing is compared"
        if not scores.compared
        else f"{scores.compared} of {report.images} sampled images compared, {scores.wrong} wrong; coding aside, "
        f"{scores.mean:.4f} nats from the re-run's on average ({scores.limit:.3f} accepted), {scores.largest:.3f} at "
        "most",
        "crops": f"{report.crops}, RandomResizedCrop(scale=(0.08, 1)), shown to the teacher at {height} x {width} "
        f"pixels, answered by {head}",
        **_ground_truth(report.class_spaces),
    }
    parts = [*findings_text(report.findings), aligned(facts)]
    if report.causes:
        parts.append("\n".join(["Why the maps are wrong:", *map(_item, report.causes)]))
    if report.lines:
        parts.append(_table(report.lines))
    if report.sizes is not None:
        parts.append("\n".join([_sizes_table(report.sizes), *map(_item, report.sizes.sentences)]))
    if report.recommendation is not None:
        advice = report.recommendation
        parts.append("\n".join(["What to do:", *map(_item, advice.sentences)]))
        if advice.warnings:
            parts.append("\n".join(["Be wary:", *map(_item, advice.warnings)]))
    parts += _readings(report.reading)
    clean = "clean" if report.is_clean else f"{len(report.findings)} findings"
    return "\n\n".join([*parts, f"{clean}; {report.seconds:.1f} s"])


def _ground_truth(spaces: ClassSpaces) -> dict[str, str]:
    """Where it is of other classes, or may be."""
    if spaces.are_same or not spaces.why:
        return {}
    what = "not compared" if spaces.are_same is False else "its numbers are taken for the teacher's"
    return {"truth": f"{what}: {spaces.why}"}


def _table(lines: Sequence[LabelLine]) -> str:
    """Columns of numbers to the right, an empty line between groups."""
    rows = [(line.label, *(_number(getattr(line, name), form) for _, name, form in _COLUMNS)) for line in lines]
    headings = ("label of a crop", *(heading for heading, _, _ in _COLUMNS))
    header, rule, *texts = table(headings, rows, right=[False, *[True] * len(_COLUMNS)]).splitlines()
    groups = [[text for line, text in zip(lines, texts, strict=True) if line.kind in kinds] for kinds in _GROUPS]
    # A heading of several columns may be wider than its first.
    widths = [len(dashes) + 2 for dashes in rule.split()]
    above = f"{'':<{widths[0]}}{'from the teacher':<{sum(widths[1:4])}}{'from all logits':<{sum(widths[4:6])}}"
    return "\n".join([above.rstrip(), header, rule, "\n\n".join("\n".join(group) for group in groups if group)])


def _sizes_table(sizes: SizesReport) -> str:
    """A line for each image size and grid, the store's own first."""
    headings = ("image size", "grid", "KL", "+-", "top-1", "fitted", "more", "+-", "cost", "bytes")
    rows = [
        (
            "{} x {}".format(*line.image_size_hw) + (", stored" if line.is_stored else ""),
            "{}x{}".format(*line.grid_hw),
            f"{line.kl_teacher:,.3f}",
            _number(line.kl_teacher_error, ".3f"),
            f"{line.agreement_teacher:.1%}",
            _number(line.kl_fitted, ",.3f"),
            f"{line.more:+.3f}",
            _number(line.more_error, ".3f"),
            _number(line.cost, ".2f"),
            f"{line.bytes_an_image:,.0f}",
        )
        for line in sizes.lines
    ]
    return table(headings, rows, right=[False, *[True] * (len(headings) - 1)])


def _readings(report: ReadingReport) -> list[str]:
    """A table of the forms of readings, of labels of crops and of their tokens, and what became of the file."""
    parts = []
    for what, fit in (("label of a crop", report.image), ("label of a token", report.tokens)):
        if fit is not None:
            rows = [
                (
                    line.form + ", kept" * (line.form == fit.kept),
                    *(_number(value, form) for value, form in ((line.kl, ",.3f"), (line.difference, "+,.3f"))),
                    *(_number(value, form) for value, form in ((line.error, ",.3f"), (line.top1, ".1%"))),
                    " ".join(f"{number:.3f}" for number in line.numbers),
                )
                for line in fit.lines
            ]
            headings = (f"reading of the {what}", "KL", "less as is", "+-", "top-1", "its numbers")
            parts.append(table(headings, rows, right=[False, True, True, True, True, False]))
    if parts:
        parts.insert(0, "Readings, each image by numbers that were fitted to others, from the teacher:")
    return [*parts, *([report.written] if report.written else [])]


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _item(sentence: str) -> str:
    return textwrap.fill(printable(sentence), _WIDTH, initial_indent="- ", subsequent_indent="  ")
