"""What a user should do, by the table: which space and temperature, how many planes, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from relabel.manifest import ScoreRecord
from relabel.pooling import Space
from relabel.worth.fidelity import Tally, nearest

_WORSE, _LEAST, _AGREE_LESS = 0.05, 0.002, 0.01
"""A smaller map is as good if its KL is at most 5 % larger, or 0.002 nats, and it names the class that the label of all
logits names at most 1 % less often: what a temperature or a reading moves a label by is several times as much."""
_ERRORS = 2.0
"""A difference of fewer standard errors is none: chance alone makes one in 20 as large."""
_GAIN = 0.02
"""A space or a temperature that lowers KL by a smaller part is not worth an option that every training must repeat."""
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
        space, temperature: for `ScoreMap.pool`.
        planes, profile: K and M for `relabel generate`; the store's own where no smaller one is as good.
        bytes_an_image: of scores, classes and profile at that K and M.
        sentences: the reasons, a sentence each.
        warnings: what speaks against the labels as they are.
    """

    space: Space
    temperature: float
    planes: int
    profile: int
    bytes_an_image: float
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Difference:
    """How much more one way's KL from the teacher is than another's of the same images, and its standard error."""

    mean: float
    error: float

    @property
    def is_more(self) -> bool:
        """Whether chance does not explain it."""
        return self.mean > _ERRORS * self.error


def recommend(tallies: Mapping[str, Tally], record: ScoreRecord, *, covered: float, wrong: int) -> Recommendation:
    """Read the table.

    Args:
        tallies: of `Fidelity`.
        record: of the store.
        covered: the mean fraction of a crop that the maps cover.
        wrong: how many of the maps were not the teacher's.
    """
    plain = {t.way.space: t for t in tallies.values() if t.way.kind == "stored" and t.way.temperature == 1}
    logit = plain["logit"]
    best: dict[Space, Tally] = {space: nearest(tallies, "stored", space) for space in get_args(Space)}
    nearer: Space = "probability" if _is_worth_it(best["logit"], best["probability"]) else "logit"
    chosen = best[nearer] if _is_worth_it(plain[nearer], best[nearer]) else plain[nearer]
    size = _smallest(tallies, logit, record)
    return Recommendation(
        space=nearer,
        temperature=chosen.way.temperature,
        planes=size.way.planes or record.planes,
        profile=record.profile if size.way.profile is None else size.way.profile,
        bytes_an_image=size.bytes_an_image,
        sentences=(
            _on_space(best, nearer),
            _on_temperature(plain[nearer], best[nearer], chosen),
            *_on_size(tallies, logit, size),
        ),
        warnings=tuple(_warnings(tallies, logit, record, covered, wrong)),
    )


def _is_worth_it(plain: Tally, better: Tally) -> bool:
    difference = _differ(plain, better)
    return difference.is_more and difference.mean > _GAIN * plain.mean("kl_teacher")


def _smallest(tallies: Mapping[str, Tally], stored: Tally, record: ScoreRecord) -> Tally:
    """The map of fewest bytes that is as good as the stored one."""
    sizes = [t for t in tallies.values() if t.way.kind == "size"]
    if record.has_holes:
        # What is stored is of another kind; as good as the best of this kind will do.
        stored = min(sizes, key=lambda tally: tally.mean("kl_teacher"))
    return min([stored, *(t for t in sizes if _is_as_good(t, stored))], key=lambda tally: tally.bytes_an_image)


def _is_as_good(tally: Tally, as_this: Tally) -> bool:
    difference = _differ(tally, as_this)
    allowed = max(_WORSE * as_this.mean("kl_teacher"), _LEAST)
    agrees = tally.mean("agreement_full") >= as_this.mean("agreement_full") - _AGREE_LESS
    return difference.mean <= allowed and agrees


def _on_space(best: Mapping[Space, Tally], nearer: Space) -> str:
    other: Space = "logit" if nearer == "probability" else "probability"
    return (
        f'Pool in {nearer} space, maps.pool(boxes, space="{nearer}"): {_nats(best[nearer])} from the teacher on the '
        f"crop, against {_nats(best[other])} in {other} space, each at its best temperature."
    )


def _on_temperature(plain: Tally, best: Tally, chosen: Tally) -> str:
    temperature = best.way.temperature
    if chosen is best and best is not plain:
        return (
            f"Give temperature={temperature:g}: {_nats(best)} instead of {_nats(plain)}; the teacher is "
            f"{'surer' if temperature < 1 else 'less sure'} of a crop's pixels than of its part of the map."
        )
    if best is plain:
        return "Leave the temperature at 1: no other brings the labels nearer to the teacher."
    return (
        f"Leave the temperature at 1: {temperature:g} gains next to nothing ({_nats(best)} instead of {_nats(plain)})."
    )


def _on_size(tallies: Mapping[str, Tally], stored: Tally, size: Tally) -> Iterator[str]:
    limit = nearest(tallies, "limit", "logit")
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
        f"All logits would have {_nats(limit)}, at temperature {limit.way.temperature:g}: no map of this teacher at "
        "this size can be nearer."
    )
    larger = [t for t in tallies.values() if t.way.kind == "size" and t.bytes_an_image > stored.bytes_an_image]
    best = min(larger, key=lambda tally: tally.mean("kl_teacher"), default=None)
    if best is not None and stored.way.planes is not None:
        gain = _differ(stored, best)
        if gain.is_more and gain.mean > _WORSE * stored.mean("kl_teacher"):
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
        what, difference = elsewhere[other.way.kind], _differ(other, stored)
        if not difference.is_more:
            yield (
                f"{what} is not measurably worse than the crop's own label ({difference.mean:+.3f} nats, standard "
                f"error {difference.error:.3f}): localisation brings nothing here, or too few images were looked at "
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


def _differ(first: Tally, second: Tally) -> _Difference:
    apart = first.each("kl_teacher") - second.each("kl_teacher")
    if len(apart) < 2:
        return _Difference(float(apart.mean()), 0.0)
    return _Difference(float(apart.mean()), float(apart.std()) / math.sqrt(len(apart)))


def _nats(tally: Tally) -> str:
    return f"{tally.mean('kl_teacher'):.3f} nats"


def _at(tally: Tally) -> str:
    return f"{_nats(tally)} at {tally.bytes_an_image:,.0f} bytes an image"
