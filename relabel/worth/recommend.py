"""What a user should do, by the table: which space and reading, how many planes, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from relabel.manifest import ScoreRecord
from relabel.pooling import Space
from relabel.worth.fidelity import Tally
from relabel.worth.fitting import AS_IS, ERRORS, LEAST_IMAGES, Judged, difference

_WORSE, _LEAST, _AGREE_LESS = 0.05, 0.002, 0.01
"""A smaller map is as good if its KL is at most 5 % larger, or 0.002 nats, and it names the class that the label of all
logits names at most 1 % less often: what a reading moves a label by is several times as much."""
_GAIN = 0.02
"""A space that lowers KL by a smaller part is not worth an option that every training must repeat."""
_NEARLY_UNIFORM, _NEARLY_HARD = 0.9, 0.02
"""Of the logarithm of the number of classes: so near to nothing, or to one class, labels say no more than that."""
_BY_CHANCE = 0.2
"""Of the way from chance to always: a teacher that names the ground truth less often speaks of other classes."""
_UNCOVERED = 0.05
"""Of the area of crops: a quarter lies outside the centre square of 4:3 photographs, nothing outside whole images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to use, and why, in sentences.

    Attributes:
        space: for `ScoreMap.pool`.
        planes, profile: K and M for `relabel generate`; the store's own where no smaller one is as good.
        bytes_an_image: of scores, classes and profile at that K and M.
        sentences: the reasons, a sentence each.
        warnings: what speaks against the labels as they are.
    """

    space: Space
    planes: int
    profile: int
    bytes_an_image: float
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def recommend(
    tallies: Mapping[str, Tally], record: ScoreRecord, judged: Judged | None, *, covered: float, wrong: int
) -> Recommendation:
    """Read the table.

    Args:
        tallies: of `Fidelity`.
        record: of the store.
        judged: the fit of a reading to the images of the tallies; None for too few.
        covered: the mean fraction of a crop that the maps cover.
        wrong: how many of the maps were not the teacher's.
    """
    plain = {t.way.space: t for t in tallies.values() if t.way.kind == "stored"}
    logit, other = plain["logit"], plain["probability"]
    read = logit.each("kl_teacher") if judged is None else judged.kl_each
    mean, error = difference(read - other.each("kl_teacher"))
    nearer: Space = "probability" if mean > max(ERRORS * error, _GAIN * float(read.mean())) else "logit"
    size = _smallest(tallies, logit, record)
    return Recommendation(
        space=nearer,
        planes=size.way.planes or record.planes,
        profile=record.profile if size.way.profile is None else size.way.profile,
        bytes_an_image=size.bytes_an_image,
        sentences=(_on_space(read, other, nearer), _on_reading(judged), *_on_size(tallies, logit, size)),
        warnings=tuple(_warnings(tallies, logit, record, covered, wrong)),
    )


def _smallest(tallies: Mapping[str, Tally], stored: Tally, record: ScoreRecord) -> Tally:
    """The map of fewest bytes that is as good as the stored one."""
    sizes = [t for t in tallies.values() if t.way.kind == "size"]
    if record.has_holes:
        # What is stored is of another kind; as good as the best of this kind will do.
        stored = min(sizes, key=lambda tally: tally.mean("kl_teacher"))
    return min([stored, *(t for t in sizes if _is_as_good(t, stored))], key=lambda tally: tally.bytes_an_image)


def _is_as_good(tally: Tally, as_this: Tally) -> bool:
    more, _ = _differ(tally, as_this)
    allowed = max(_WORSE * as_this.mean("kl_teacher"), _LEAST)
    agrees = tally.mean("agreement_full") >= as_this.mean("agreement_full") - _AGREE_LESS
    return more <= allowed and agrees


def _on_space(read: Tensor, probability: Tally, nearer: Space) -> str:
    logit, other = f"{float(read.mean()):.3f} nats", _nats(probability)
    if nearer == "logit":
        return f"Pool in logit space, as pool() does: {logit} from the teacher on the crop, against {other} otherwise."
    return (
        f'Pool in probability space, maps.pool(boxes, space="probability"), which takes no reading: {other} from the '
        f"teacher on the crop, against {logit} in logit space, read as well as it can be."
    )


def _on_reading(judged: Judged | None) -> str:
    if judged is None:
        return f"No reading was looked for, of fewer than {LEAST_IMAGES} images (-n): labels stay as they are."
    fit = judged.fit
    if fit.kept == AS_IS:
        return "Leave labels as they are: no reading brings them nearer to the teacher on images it was not fitted to."
    line = fit.line(fit.kept)
    return (
        f"Read labels by the form {fit.kept!r}, which --fit writes beside the store and relabel.open takes from there: "
        f"{line.kl:.3f} nats instead of {fit.line(AS_IS).kl:.3f}, on images that it was not fitted to. The teacher "
        "answers otherwise on a crop's pixels than on its part of the map."
    )


def _on_size(tallies: Mapping[str, Tally], stored: Tally, size: Tally) -> Iterator[str]:
    limit = next(t for t in tallies.values() if (t.way.kind, t.way.space) == ("limit", "logit"))
    if size is stored:
        yield f"Keep --planes {size.way.planes} --profile {size.way.profile}, {_at(size)}: no smaller map is as good."
    elif stored.way.planes is None:
        yield (
            f"For a store of the teacher's own, --planes {size.way.planes} --profile {size.way.profile} would be the "
            f"smallest map as good as the best that was tried: {_at(size)}, where the stored ones have {_at(stored)}."
        )
    else:
        yield (
            f"--planes {size.way.planes} --profile {size.way.profile} would do, for the next store: {_at(size)}, where "
            f"the stored ones have {_at(stored)}. It is no reason to make this store again."
        )
    yield (
        f"All logits would have {_nats(limit)}: no map of this teacher at this size can be nearer as it is, without a "
        "reading."
    )
    larger = [t for t in tallies.values() if t.way.kind == "size" and t.bytes_an_image > stored.bytes_an_image]
    best = min(larger, key=lambda tally: tally.mean("kl_teacher"), default=None)
    if best is not None and stored.way.planes is not None:
        gain, error = _differ(stored, best)
        if gain > max(ERRORS * error, _WORSE * stored.mean("kl_teacher")):
            yield f"A larger map would be nearer to the teacher: {best.way.name}, {_at(best)}."


def _warnings(
    tallies: Mapping[str, Tally], stored: Tally, record: ScoreRecord, covered: float, wrong: int
) -> Iterator[str]:
    if wrong:
        yield (
            f"{wrong} of the stored maps are not this teacher's, see above: mend that first. The lines of stored maps "
            "are of them as they are, and all others are of the teacher that was run."
        )
    elsewhere = {"whole image": "One label for the whole image", "swapped": "A box with x and y swapped"}
    for other in (t for t in tallies.values() if t.way.kind in elsewhere):
        what, (more, error) = elsewhere[other.way.kind], _differ(other, stored)
        if more <= ERRORS * error:
            yield (
                f"{what} is not measurably worse than the crop's own label ({more:+.3f} nats, standard "
                f"error {error:.3f}): localisation brings nothing here, or too few images were looked at "
                "(-n). Look at some maps; try a larger --image-size, or another teacher."
            )
    certain, chance = math.log(record.num_classes), 1 / record.num_classes
    entropy, truth = stored.mean("entropy"), stored.mean("agreement_truth")
    if entropy > _NEARLY_UNIFORM * certain:
        yield (
            f"The labels are nearly uniform, {entropy:.2f} nats of at most {certain:.2f}: random weights, or a teacher "
            "of other images?"
        )
    elif entropy < _NEARLY_HARD * certain:
        yield f"The labels are nearly one-hot, {entropy:.3f} nats: they say little that a hard label does not."
    if truth < chance + _BY_CHANCE * (1 - chance):
        yield (
            f"The labels name the ground truth of {truth:.1%} of the crops (by chance {chance:.1%}): are the teacher's "
            "classes in another order than the data's, or other classes? See --classes."
        )
    if covered < 1 - _UNCOVERED:
        yield (
            f"{1 - covered:.0%} of the area of a crop lies outside what the maps cover, so its label is that of the "
            "rest: --fit squash covers whole images."
        )


def _differ(first: Tally, second: Tally) -> tuple[float, float]:
    """How much more one way's KL from the teacher is than another's of the same images, and its standard error."""
    return difference(first.each("kl_teacher") - second.each("kl_teacher"))


def _nats(tally: Tally) -> str:
    return f"{tally.mean('kl_teacher'):.3f} nats"


def _at(tally: Tally) -> str:
    return f"{_nats(tally)} at {tally.bytes_an_image:,.0f} bytes an image"
