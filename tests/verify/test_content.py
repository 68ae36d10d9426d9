"""What score maps promise: sound ones of any logits are let pass, and planted faults are found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import random_logits
from torch import Tensor

from relabel.manifest import ScoreRecord
from relabel.score_map import ScoreMap
from relabel.store import RowBatch
from relabel.verify.content import Maps, content_findings


def stored(logits: Tensor, planes: int, profile: int, step: float | None = 1 / 8) -> tuple[Maps, ScoreRecord]:
    """The maps of logits as a store holds them, in codes of a step, or as halves."""
    made = ScoreMap.from_logits(logits, planes, profile)
    count = made.planes.shape[1]
    record = ScoreRecord(
        num_classes=logits.shape[1],
        planes=count,
        profile=made.classes.shape[1] - count,
        grid_hw=made.grid.size_hw,
        dtype="float16" if step is None else "uint8",
        step=step,
    )
    rows = RowBatch.of(made, record)
    return Maps(scores=rows.scores, classes=rows.classes, profile=rows.profile), record


def of_one_cell(probabilities: list[float], planes: int, profile: int) -> tuple[Maps, ScoreRecord]:
    """One map of one cell."""
    return stored(torch.tensor(probabilities).log()[None, :, None, None], planes, profile)


@st.composite
def any_logits(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """Logits of any scale, shift and kind, on any grid, with any K and M."""
    classes = draw(st.sampled_from([1, 2, 3, 5, 17, 40, 1000]))
    planes = draw(st.integers(1, min(classes, 20)))
    profile = draw(st.integers(0, min(classes - planes, 64)))
    grid = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(3, classes, *grid, generator=generator)
    kind = draw(st.sampled_from(["normal", "image", "ties", "peaks", "uneven"]))
    if kind == "image":
        logits = logits + 3 * torch.randn(3, classes, 1, 1, generator=generator)
    elif kind == "ties":
        logits = (logits > 1).float()
    elif kind == "peaks":
        logits = logits.sinh() ** 3
    elif kind == "uneven":
        logits = logits * 10 ** (4 * torch.rand(3, 1, *grid, generator=generator) - 3)
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0, 300.0, 3000.0]))
    return logits.clamp(-8, 8) * scale + draw(st.sampled_from([0.0, -14.0, 1000.0])), planes, profile


@settings(max_examples=150, deadline=None)
@given(given=any_logits(), step=st.sampled_from([None, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]))
def test_the_maps_of_any_logits_are_sound(given: tuple[Tensor, int, int], step: float | None) -> None:
    assert list(content_findings(*stored(*given, step))) == []


def change(array: str, place: Any, value: Any) -> Any:
    """A fault: a value written into one array of some maps."""

    def changed(maps: Maps) -> Maps:
        values = getattr(maps, array).copy()
        values[place] = value
        return dataclasses.replace(maps, **{array: values})

    return changed


@pytest.mark.parametrize(
    ("step", "fault", "found"),
    [
        (1 / 8, change("scores", (1, 2, 1, 0), 0), "the planes' probabilities sum to 1."),
        (1 / 16, change("scores", (1, slice(3), 1, 0), 0), "the planes' probabilities sum to 3.000 at a cell"),
        (1.0, change("scores", (1, slice(3), 1, 0), 0), "the planes' probabilities sum to 3.000 at a cell"),
        (1 / 8, change("scores", (1, -1, 1, 0), 8), "the rest plane holds more probability than the planes leave"),
        (1 / 8, change("scores", (1, 0, 0, 0), 255), "a score is not stored"),
        (1 / 8, change("scores", (1, -1, 0, 0), 255), "a score is not stored"),
        (1 / 8, change("classes", (1, 1), 12), "a class id lies outside [0, 12): 12"),
        (1 / 8, change("classes", (1, -1), 65535), "a class id lies outside [0, 12): 65535"),
        (1 / 8, change("profile", (1, 0), 60), "planes and profile sum to the probability"),
        (1 / 8, change("profile", (1, -1), 60), "planes and profile sum to the probability"),
        (1 / 8, change("profile", (1, -1), -60), "the profile's offsets do not average to 0"),
        (1 / 8, change("profile", (1, slice(4)), -90), "the profile's offsets do not average to 0"),
        (None, change("scores", (1, 2, 1, 0), -0.01), "the planes' probabilities sum to 1."),
        (None, change("scores", (1, -1, 1, 0), -1), "the rest plane holds more probability than the planes leave"),
        (None, change("scores", (1, 0, 0, 0), np.nan), "a score is not stored"),
        (None, change("scores", (1, 0, 0, 0), -np.inf), "a score is infinite"),
        (None, change("scores", (1, 0, 0, 0), np.inf), "a score is infinite"),
        (None, change("scores", (1, 0, 0, 0), 0.5), "a log-probability is above 0: 0.500"),
        (None, change("scores", (1, 0, 0, 0), 6e4), "a log-probability is above 0: 6"),
    ],
)
def test_a_planted_fault_is_found_at_its_row(step: float | None, fault: Any, found: str) -> None:
    maps, record = stored(random_logits(3, 12, (2, 3)), 3, 4, step)
    findings = list(content_findings(fault(maps), record))
    assert [row for row, _ in findings] == [1] * len(findings)
    assert any(what.startswith(found) for _, what in findings), findings


def test_a_class_that_stands_twice_is_found() -> None:
    maps, record = stored(random_logits(3, 12, (2, 3)), 3, 4)
    again = int(maps.classes[2, 0])
    names = [f"a{number}" for number in range(12)]
    assert list(content_findings(change("classes", (2, -1), again)(maps), record, names)) == [
        (2, f"a class is stored twice: {again} 'a{again}'")
    ]


def test_codes_read_with_a_finer_step_than_theirs_are_found() -> None:
    maps, record = stored(random_logits(3, 12, (2, 3)), 3, 4, 1 / 4)
    found = list(content_findings(maps, dataclasses.replace(record, step=1 / 8)))
    assert {row for row, _ in found} == {0, 1, 2}


@pytest.mark.parametrize(("lowered", "found"), [(0, False), (5, False), (7, True)])
def test_mass_may_be_above_1_by_the_coding_step_and_no_more(lowered: int, found: bool) -> None:
    # Half a code is exp(1 / 16) - 1 = 6.4 %; these codes are 2.3 % above 1, and each that is lowered adds 0.85 %.
    maps, record = of_one_cell([1 / 16] * 16, 16, 0)
    assert maps.scores[0, :-1].ravel().tolist() == [22] * 16
    scores = maps.scores.copy()
    scores[0, :lowered] -= 1
    assert bool(list(content_findings(dataclasses.replace(maps, scores=scores), record))) is found


def test_the_rest_is_of_every_class_without_a_plane() -> None:
    maps, record = of_one_cell([0.5] + [0.5 / 11] * 11, 1, 4)
    # 0.5 + 11 * 0.0639 is above 1, and with the seven classes outside the profile alone it would not be.
    assert list(content_findings(change("scores", (0, -1, 0, 0), 22)(maps), record)) == [
        (0, "the rest plane holds more probability than the planes leave at a cell")
    ]


def test_offsets_of_a_map_that_keeps_every_class_average_to_0() -> None:
    maps, record = of_one_cell([0.5, 0.3, 0.15, 0.05], 2, 2)
    assert list(content_findings(maps, record)) == []
    for fault in (change("profile", (0, 1), maps.profile[0, 1] - 3), change("profile", (0, 2), 1)):
        assert [what for _, what in content_findings(fault(maps), record)] == [
            "the profile's offsets do not average to 0 over the classes without a plane"
        ]


def test_offsets_that_were_cut_off_need_not_average_to_0() -> None:
    maps, record = of_one_cell([0.5, 0.3, 0.15, 0.05], 2, 2)
    assert list(content_findings(change("profile", (0, slice(2)), (-128, 5))(maps), record)) == []


def test_what_could_not_be_read_is_not_looked_at() -> None:
    maps, record = stored(random_logits(3, 12, (2, 3)), 3, 4)
    damaged = dataclasses.replace(change("scores", (0, 0, 0, 0), 255)(maps), classes=None, profile=None)
    assert [row for row, _ in content_findings(damaged, record)] == [0]


def test_cells_of_per_cell_maps_may_lack_planes_but_not_the_rest() -> None:
    maps, record = stored(random_logits(3, 12, (2, 3)), 3, 0, None)
    holes = change("scores", (0, 1, 0, 0), np.nan)(maps)
    assert [row for row, _ in content_findings(holes, record)] == [0]
    record = dataclasses.replace(record, scores="logit", select="cell")
    assert list(content_findings(holes, record)) == []
    assert [row for row, _ in content_findings(change("scores", (1, -1, 0, 0), np.nan)(holes), record)] == [1]


def test_raw_logits_are_no_probabilities() -> None:
    maps, record = stored(random_logits(3, 12, (2, 3)), 3, 0, None)
    record = dataclasses.replace(record, scores="logit", select="cell")
    raw = dataclasses.replace(maps, scores=maps.scores + np.float16(20))
    assert list(content_findings(raw, record)) == []
    assert [row for row, _ in content_findings(change("scores", (1, 0, 0, 0), np.inf)(raw), record)] == [1]
