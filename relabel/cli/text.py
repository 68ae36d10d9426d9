"""What the commands print: text for a person, plain values for a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relabel.findings import class_text
from relabel.geometry import Footprint
from relabel.naming import DANGLING, IMAGE_SUFFIXES, NO_CLASS
from relabel.paths import printable

if TYPE_CHECKING:
    # `relabel --help` must not wait for torch and timm.
    from relabel.findings import Finding
    from relabel.generate.options import GenerateSummary
    from relabel.manifest import KeptRecord, Manifest, Preprocessing
    from relabel.plan import Failure, RunSummary
    from relabel.summary import StoreSummary
    from relabel.verify import Repair, ShardsReport

_SHOWN = 20
_WIDTH = 120
_LONGEST = 1000
"""Characters of a key, and of any other cell, behind which a table is no longer one."""
_MOST = 5
_MOST_KINDS = 12
_ADVICE = {
    ".cls": "a .cls counts only directly beside its image in the tar",
    DANGLING: "mend the links, or remove them",
    NO_CLASS: "put each image into the folder of its class",
}
"""What to do about some kinds of files that were left out."""


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[bool] | None = None) -> str:
    """Columns of text under a header, to the right where that is said; else where all are numbers."""
    cells = [[*map(str, header)], *([printable(cut(str(value), _LONGEST)) for value in row] for row in rows)]
    right = right or [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def aligned(facts: Mapping[str, object]) -> str:
    """A line for each fact, under one another."""
    size = max(map(len, facts))
    return "\n".join(f"{name:<{size}}  {printable(str(fact))}" for name, fact in facts.items())


def cut(text: str, most: int = _WIDTH) -> str:
    """Text for a table: a foreign store's key may have as many characters as it likes."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def failure_lines(failures: Sequence[Failure], unlisted: int) -> list[str]:
    """How many images and shards failed, and the first of them; nothing where none did."""
    count = len(failures) + unlisted
    if not count:
        return []
    rows = [(f.shard, cut(f.key) or "(whole shard)", f.reason) for f in failures[:_SHOWN]]
    lines = [f"{_count(count, 'failure')}:", table(("shard", "key", "why"), rows)]
    return lines + [f"and {count - _SHOWN} more; the store's `error` array has them all"] * (count > _SHOWN)


def run_text(summary: RunSummary, store: str, *, note: str = "", parts: Sequence[str] = (), again: str = "") -> str:
    """The end of a run that writes a store, with what only one kind of run has to say."""
    if summary.had_nothing_to_do:
        lines = [f"{printable(store)}: nothing to do, all {_count(summary.shards, 'shard')} were there already"]
    else:
        lines = [
            f"{printable(store)}: {_count(summary.shards_published, 'shard')} published, {summary.shards_skipped} were "
            f"there already, of {summary.shards}",
            f"{summary.images} images in {summary.seconds:.1f} s, {summary.images_per_second:.1f} images/s{note}",
        ]
    if summary.broken:
        lines.append(f"{len(summary.broken)} shards that were there had lost or broken files, and are labelled again:")
        lines.append(table(("shard", "why"), [(f.shard, f.reason) for f in summary.broken[:_SHOWN]]))
    lines += [*parts, *failure_lines(summary.failures, summary.failures_unlisted)]
    if summary.failed_earlier:
        lines.append(f"{summary.failed_earlier} images of the shards that were there already failed earlier{again}")
    if not summary.is_good:
        lines.append(f"more failed than --max-failures {summary.max_failures:g} accepts, or a shard is not published")
    return "\n".join(lines)


def generate_text(summary: GenerateSummary, store: str, *, timings: bool = False) -> str:
    """The end of a run of the teacher."""
    copied = f"; {summary.copied} of them copied, not labelled" if summary.copied else ""
    note = f"{copied}; waited for {summary.waits.note(summary.seconds)}"
    rows = [(stage, f"{waited:.0%}", f"{busy:.0%}") for stage, waited, busy in summary.timings_table()]
    parts = [table(("stage", "waited for", "at work"), rows)] if timings else []
    parts += left_out_lines(summary.left_out)
    return run_text(summary, store, note=note, parts=parts, again="; mend them and run again with --retry-failed")


def left_out_lines(left_out: Mapping[str, int]) -> list[str]:
    """The files below IMAGES that no row, or no ground truth, was made of, and what to do if that is wrong."""
    if not left_out:
        return []
    outside = left_out.get(NO_CLASS, 0)
    lines = [f"without a ground truth: {outside} {NO_CLASS}; {_ADVICE[NO_CLASS]}"] if outside else []
    left_out = {kind: count for kind, count in left_out.items() if kind != NO_CLASS}
    if not left_out:
        return lines
    most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{count} {kind}" for kind, count in most[:_MOST_KINDS])
    more = f" and {len(most) - _MOST_KINDS} kinds more" if len(most) > _MOST_KINDS else ""
    advice = [what for kind, what in _ADVICE.items() if kind in left_out]
    if any(kind.startswith(".") and kind not in _ADVICE for kind in left_out):
        advice.append(f"an image ends in one of {', '.join(sorted(IMAGE_SUFFIXES))}: rename or convert what is one")
    return [*lines, "; ".join([f"left out: {printable(told)}{more}", *advice])]


def shards_text(report: ShardsReport) -> str:
    """Findings, a line each, and a summary."""
    lines = [line for text in findings_text(report.findings) for line in (text, "")]
    compared = f", {report.images_compared} compared with the images" if report.images_compared else ""
    shards = _count(report.shards_in_store, "shard")
    part = f"{report.shards} of {shards}" if report.not_checked else shards
    lines.append(
        f"{part}, {report.images} images: {report.labeled} labelled, {report.failed} failed"
        f"{compared}; {report.seconds:.1f} s"
    )
    lines += [f"not checked, for it takes all shards: {what}" for what in report.not_checked]
    if report.not_checked and not report.shards:
        lines.append(f"nothing was looked at: no shard of the store's {report.shards_in_store} falls into that part")
    elif report.is_clean:
        lines.append("clean")
    else:
        lines.append(_count(len(report.findings), "finding"))
    if report.repair is not None:
        lines += repair_lines(report.repair)
    elif report.damaged:
        lines.append(
            f"{_shards(report.damaged)} damaged: run this again with --repair, which takes them out of the store, and "
            "then what made the store, which labels them again; or with --repair --from COPY (nothing else mends a "
            "store that relabel.write made)"
        )
    return "\n".join(lines)


def repair_lines(repair: Repair) -> list[str]:
    """What was mended, and what to do next."""
    done = {
        "retracted": repair.retracted,
        "restored from the copy": repair.restored,
        "left alone, as another process writes or has mended it": repair.left_alone,
    }
    lines = [f"{what}: {_shards(shards)}" for what, shards in done.items() if shards]
    lines += [f"made anew: {', '.join(repair.remade)}"] * bool(repair.remade)
    if again := sorted(repair.retracted + repair.missing):
        lines.append(f"next: run what made the store again (generate or import), which labels {_shards(again)}")
    if repair.left_alone:
        lines.append("next: verify again once nothing writes to the store")
    if repair.unmended:
        lines.append(
            f"{_count(len(repair.unmended), 'finding')} not mended. What made the store labels again only what is "
            "missing or broken, and with --retry-failed the shards that hold failed images"
        )
    if repair.still_damaged:
        lines.append(
            f"next: {_shards(repair.still_damaged)} cannot be had from that copy: give another, or run --repair "
            "without --from and then what made the store, which labels them again"
        )
    return lines or ["nothing to repair"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shards(numbers: Sequence[int]) -> str:
    some = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    return f"shard {some}" if len(numbers) == 1 else f"{len(numbers)} shards ({some})"


def findings_text(findings: Sequence[Finding]) -> list[str]:
    """A table of findings, those of a kind cut short; nothing where there are none."""
    from relabel.findings import abridged

    if not findings:
        return []
    shown, more = abridged(findings, _SHOWN)
    rows = [("-" if f.shard < 0 else f.shard, "-" if f.row < 0 else f.row, cut(f.key) or "-", f.what) for f in shown]
    lines = [table(("shard", "row", "key", "what"), rows)]
    lines += [f"and {count} more: {printable(cut(what, _LONGEST))}" for what, count in more.items()]
    return ["\n".join([*lines, "--json has them all"] if more else lines)]


def store_text(summary: StoreSummary, store: str) -> str:
    """What a store is."""
    m, scores = summary.manifest, summary.manifest.scores
    if isinstance(m.footprint, Footprint):
        footprint = "the whole image" if m.footprint.is_whole else str(m.footprint)
    else:
        footprint = "each image's own part"
    step = "" if scores.step is None else f" in steps of {scores.step:g} nats"
    each = "" if summary.bytes_per_image is None else f", {summary.bytes_per_image:.0f} bytes an image"
    facts = {
        "store": store,
        "teacher": _teacher(m),
        "input": "not said" if m.preprocessing is None else input_text(m.preprocessing),
        **_averaged(m),
        "map": f"grid {scores.grid_hw[0]}x{scores.grid_hw[1]} of {footprint}",
        "classes": f"{scores.num_classes}: {scores.planes} planes, {scores.profile} profile classes an image",
        **({} if m.teacher.kept is None else {"kept": kept_text(m.teacher.kept)}),
        "scores": f"{scores.scores}, {scores.dtype}{step}, {scores.compression}",
        "shards": f"{summary.shards_published} of {len(m.data.shards)} published, {m.data.rows_per_shard} rows each",
        "images": f"{summary.labeled} labelled, {summary.failed} failed",
        "size": f"{summary.bytes / 1e6:.2f} MB{each}",
        "unstored mass": _share(summary.unstored_mass, f" (mean over {summary.sampled} images)"),
        "first class": _share(summary.first_class_is_label, f" is the ground truth{_caveat(summary)}")
        + f"; most often {_most(summary.first_classes, m.class_names)}",
        **({"other classes": summary.class_spaces.why} if summary.class_spaces.are_same is False else {}),
        "ground truth": _histogram(summary.labels, m.data.class_names),
        "digest": summary.digest or "none before all shards are published",
        "versions": ", ".join(f"{name} {version}" for name, version in m.versions.items()),
    }
    return aligned(facts)


def input_text(pixels: Preprocessing) -> str:
    """How a teacher sees images."""
    height, width = pixels.image_size_hw
    upright = ", turned upright" if pixels.exif == "upright" else ""
    return f"{height} x {width} pixels, {pixels.fit}, {pixels.interpolation}{upright}"


def _teacher(manifest: Manifest) -> str:
    """Who answered; of an archive, what its authors say."""
    teacher, imported = manifest.teacher, manifest.imported
    if imported is not None:
        return f"{teacher.name}, as is said: imported from {imported.archive} files, stored {imported.orientation}"
    return f"{teacher.described}, {teacher.head} head, {teacher.precision}"


def kept_text(kept: KeptRecord) -> str:
    """Which of a teacher's classes a map speaks of."""
    return f"{kept.selection}: {kept.count} of the teacher's {kept.of} classes, sha256 {kept.digest[:12]}"


def _averaged(manifest: Manifest) -> dict[str, str]:
    """What a map is the average of, where it is one."""
    others = [
        f"{o.teacher.described} at {o.preprocessing.image_size_hw[0]} x {o.preprocessing.image_size_hw[1]} pixels"
        for o in manifest.others
    ]
    parts = others + (["the mirrored image"] if manifest.flip_average else [])
    of_what = {"log-probability": "log-probabilities", "probability": "probabilities"}[manifest.mean]
    return {"averaged with": f"{'; '.join(parts)}; it is the mean of {of_what}"} if parts else {}


def _caveat(summary: StoreSummary) -> str:
    spaces = summary.class_spaces
    return f", if both count the same classes: {spaces.why}" if spaces.are_same is None else ""


def _share(value: float | None, rest: str) -> str:
    return "-" if value is None else f"{value:.1%}{rest}"


def _most(counts: Mapping[int, int], names: Sequence[str] | None) -> str:
    """The most frequent classes, and how often each is there."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST]
    return ", ".join(f"{class_text(number, names)}: {count}" for number, count in most) or "-"


def _histogram(labels: Mapping[int, int], names: Sequence[str] | None) -> str:
    known = {label: count for label, count in labels.items() if label >= 0}
    unknown = f", {labels[-1]} images without one" if labels.get(-1) else ""
    if not known:
        return f"none{unknown}"
    few, many = min(known.values()), max(known.values())
    return f"{len(known)} classes, {few} to {many} images each (most: {_most(known, names)}){unknown}"
