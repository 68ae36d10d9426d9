"""What ``relabel verify labels`` prints."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relabel.cli.text import aligned, findings_text, printable, table

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.worth import LabelLine, LabelsReport

_WIDTH = 118
_HEADER = ("label of a crop", "KL", "+-", "top-1", "KL", "top-1", "truth", "entropy", "bytes")
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
    }
    parts = [*findings_text(report.findings), aligned(facts)]
    if report.causes:
        parts.append("\n".join(["Why the maps are wrong:", *map(_item, report.causes)]))
    if report.lines:
        parts.append(_table(report.lines))
    if report.recommendation is not None:
        advice = report.recommendation
        parts.append("\n".join(["What to do:", *map(_item, advice.sentences)]))
        if advice.warnings:
            parts.append("\n".join(["Be wary:", *map(_item, advice.warnings)]))
    clean = "clean" if report.is_clean else f"{len(report.findings)} findings"
    return "\n\n".join([*parts, f"{clean}; {report.seconds:.1f} s"])


def _table(lines: Sequence[LabelLine]) -> str:
    """Columns of numbers to the right, an empty line between groups."""
    header, rule, *texts = table(
        _HEADER, [_row(line) for line in lines], right=[i > 0 for i in range(len(_HEADER))]
    ).splitlines()
    groups = [[text for line, text in zip(lines, texts, strict=True) if line.kind in kinds] for kinds in _GROUPS]
    # A heading of several columns may be wider than its first.
    widths = [len(dashes) + 2 for dashes in rule.split()]
    above = f"{'':<{widths[0]}}{'from the teacher':<{sum(widths[1:4])}}{'from all logits':<{sum(widths[4:6])}}"
    return "\n".join([above.rstrip(), header, rule, "\n\n".join("\n".join(group) for group in groups if group)])


def _row(line: LabelLine) -> tuple[str, ...]:
    return (
        line.label,
        _number(line.kl_teacher, 3),
        _number(line.kl_teacher_error, 3),
        _percent(line.agreement_teacher),
        _number(line.kl_full, 3),
        _percent(line.agreement_full),
        _percent(line.agreement_truth),
        _number(line.entropy, 2),
        _number(line.bytes_an_image, 0),
    )


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _item(sentence: str) -> str:
    return textwrap.fill(printable(sentence), _WIDTH, initial_indent="- ", subsequent_indent="  ")
