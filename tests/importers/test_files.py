"""One file of an archive: what is a map, what is not, and why; and from its lists to planes."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from importers.archives import CLASSES, cell_lists, save_relabel, save_token_labeling

from relabel.importers.files import MAX_BYTES, Files, MapKind, Scan, load, scan
from relabel.importers.planes import Layout, convert

NAME = "n01/a.pt"


def good() -> torch.Tensor:
    """A map of two classes a cell, 3 x 4 cells."""
    lists = cell_lists(1, (3, 4), top=2)
    return torch.stack([lists.scores[0], lists.ids[0].float()])


def changed(place: tuple[int, ...], value: float) -> torch.Tensor:
    """The same with one number changed."""
    tensor = good()
    tensor[place] = value
    return tensor


class Foreign:
    """What a pickle may do: here, to make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def reason(root: Path, content: object) -> str:
    """Why a file of this content (bytes, or what torch is to save) is no map; "" if it is one."""
    path = root / NAME
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    loaded = load(Files(str(root), [NAME], CLASSES))
    assert bool(loaded.maps) != bool(loaded.reasons[0])
    return loaded.reasons[0].removeprefix(f"{NAME}: ")


def saved(tensor: object) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (good(), ""),
        (good().half(), ""),
        (torch.nn.Parameter(good()), ""),
        (good().double(), ""),
        (good().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), ""),
        (changed((0, 0, 1, 1), -2.5), ""),
        (changed((0, 1, 2, 3), float("nan")), "its scores are not finite"),
        (changed((0, 1, 2, 3), float("inf")), "its scores are not finite"),
        (changed((0, 0, 0, 0), 70_000.0), "a score is too large for float16"),
        (changed((1, 0, 0, 0), 1.5), f"a class id is no whole number from 0 to {CLASSES - 1}"),
        (changed((1, 0, 0, 0), -1), f"a class id is no whole number from 0 to {CLASSES - 1}"),
        (changed((1, 0, 0, 0), CLASSES), f"a class id is no whole number from 0 to {CLASSES - 1}"),
        (changed((1, 0, 0, 0), float("nan")), f"a class id is no whole number from 0 to {CLASSES - 1}"),
        (changed((1, 0, 0, 0), float(good()[1, 1, 0, 0])), "a cell lists a class twice"),
        (torch.tensor([3.0, 2, 1, 7, 5, 7]).reshape(2, 3, 1, 1), "a cell lists a class twice"),
        (good()[0], "a tensor (2, 3, 4), not (2, k, H, W)"),
        (torch.cat([good(), good()]), "a tensor (4, 2, 3, 4), not (2, k, H, W)"),
        (good()[:, :, :, :0], "a tensor (2, 2, 3, 0), not (2, k, H, W)"),
        (good().int(), "a tensor (2, 2, 3, 4) of int32, not floats"),
        (torch.zeros(1).expand(2, 5, 9999, 9999), "a tensor (2, 5, 9999, 9999) of float32, not floats"),
        (torch.zeros(2, CLASSES + 1, 1, 1), f"lists {CLASSES + 1} classes at a cell, of {CLASSES}"),
        (torch._neg_view(-good()), ""),
        (good().to_sparse(), "not a dense tensor"),
        ({"map": good()}, "holds a dict, not a tensor"),
        ([good()], "holds a list, not a tensor"),
        (None, "holds a NoneType, not a tensor"),
        (b"", "damaged or cut"),
        (b"\0" * 4096, "damaged"),
        (saved(good())[:-100], "damaged or cut"),
        (saved(good())[:100], "damaged or cut"),
        (b"\x89PNG\r\n", "damaged"),
        (b" " * (MAX_BYTES + 1), f"cannot be read: too large: {MAX_BYTES + 1} bytes, and at most {MAX_BYTES} are read"),
    ],
)
def test_what_is_no_map_says_why(content, why, tmp_path):
    found = reason(tmp_path, content)
    assert found.startswith(why)
    assert bool(found) == bool(why)
    assert "\n" not in found
    assert "weights_only" not in found


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_something_runs_nothing(is_zip, tmp_path):
    mark = tmp_path / "ran"
    content = saved(Foreign(mark)) if is_zip else pickle.dumps(Foreign(mark))
    assert reason(tmp_path, content).startswith("damaged, or it holds more than tensors")
    assert not mark.exists()


def test_an_archive_that_unpacks_to_far_more_is_not_loaded_for_long(tmp_path):
    plain = zipfile.ZipFile(io.BytesIO(saved(good())))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name) if "/data/" not in name else b"\0" * 50_000_000)
    assert reason(tmp_path, file.getvalue()).startswith("unpacks to 5")


def test_no_cut_and_no_flipped_byte_ends_the_import(tmp_path):
    content = saved(good().half())
    random = np.random.default_rng(0)
    for _ in range(60):
        flipped = bytearray(content)
        flipped[random.integers(len(content))] ^= 1 << random.integers(8)
        reason(tmp_path, bytes(flipped))
        assert reason(tmp_path, content[: random.integers(len(content))])


def test_a_scan_counts_kinds_classes_and_bytes(tmp_path):
    lists = cell_lists(3)
    names = ["a.pt", "b.pt", "c.pt", "d.pt", ""]
    for name, scores, ids in zip(names, lists.scores, lists.ids, strict=False):
        save_relabel(tmp_path / name, scores, ids)
    save_token_labeling(tmp_path / "c.pt", lists.scores[2, :, :4], lists.ids[2, :, :4])
    (tmp_path / "d.pt").write_bytes(b"cut")
    found = scan(Files(str(tmp_path), names, CLASSES))
    small, large = MapKind("float16", 3, 4, 6), MapKind("float32", 3, 5, 6)
    assert (found.files, dict(found.kinds)) == (4, {large: 2, small: 1})
    counts = [len(lists.ids[i].unique()) for i in (0, 1)] + [len(lists.ids[2, :, :4].unique())]
    assert (found.most, found.listed) == ({large: max(counts[:2]), small: counts[2]}, sum(counts))
    assert [why.partition(":")[0] for why in found.reasons] == ["d.pt"]
    parts = Scan()
    for some in (names[3:], names[:1], names[1:3]):
        parts.add(scan(Files(str(tmp_path), some, CLASSES)))
    assert parts == found


def test_the_digest_sees_every_byte_and_every_name(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"one")
    (tmp_path / "b.pt").write_bytes(b"two")
    both = load(Files(str(tmp_path), ["a.pt", "b.pt"], CLASSES)).digest
    (tmp_path / "a.pt").write_bytes(b"two")
    (tmp_path / "b.pt").write_bytes(b"one")
    assert load(Files(str(tmp_path), ["a.pt", "b.pt"], CLASSES)).digest != both


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_planes_hold_what_the_lists_say_in_either_orientation(data):
    height, width = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    top, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
    lists = cell_lists(2, (height, width), top=top, seed=seed)
    orientation = data.draw(st.sampled_from(["yx", "xy"]))
    with pytest.MonkeyPatch.context() as patch:
        stacked = torch.stack([lists.scores, lists.ids.float()], dim=1)
        stored = stacked if orientation == "yx" else stacked.transpose(3, 4)
        files = iter([f"{i}" for i in range(2)])
        patch.setattr("relabel.importers.files._bytes", lambda _: next(files).encode())
        patch.setattr("relabel.importers.files._loaded", lambda data: stored[int(data)])
        most = max(len(ids.unique()) for ids in lists.ids)
        layout = Layout(tuple(stored.shape[1:]), most, orientation, "uint16")
        found = convert(Files("", ["a.pt", "", "b.pt"], CLASSES), layout)
    assert layout.grid_hw == (height, width)
    assert (found.reasons, found.places.tolist()) == (["", "", ""], [0, 2])
    batch, dropped = found.batch(np.arange(2))
    assert dropped == 0
    for image in range(2):
        dense = oracle.zero_filled(lists.ids[image].numpy(), lists.scores[image].half().numpy(), CLASSES)
        classes = batch.classes[image].tolist()
        assert len(set(classes)) == most
        np.testing.assert_array_equal(np.nan_to_num(batch.scores[image, :-1]), dense[classes])
        assert not dense[np.setdiff1d(np.arange(CLASSES), classes)].any()
        listed = (lists.ids[image].numpy()[:, None] == np.array(classes)[None, :, None, None]).any(0)
        np.testing.assert_array_equal(~np.isnan(batch.scores[image, :-1]), listed)
        assert not batch.scores[image, -1].any()


def test_a_file_of_another_shape_than_the_stores_has_no_map(tmp_path):
    lists = cell_lists(2)
    save_relabel(tmp_path / "a.pt", lists.scores[0], lists.ids[0])
    save_relabel(tmp_path / "b.pt", lists.scores[1, :, :, :4], lists.ids[1, :, :, :4])
    found = convert(Files(str(tmp_path), ["b.pt", "a.pt"], CLASSES), Layout((2, 3, 5, 6), 9, "yx", "uint16"))
    assert found.reasons == ["b.pt: a tensor (2, 3, 5, 4), and most have (2, 3, 5, 6)", ""]
    assert found.places.tolist() == [1]


def test_files_of_either_precision_may_lie_side_by_side(tmp_path):
    lists = cell_lists(3)
    for number, save in enumerate((save_relabel, save_token_labeling, save_relabel)):
        save(tmp_path / f"{number}.pt", lists.scores[number], lists.ids[number])
    found = convert(Files(str(tmp_path), ["0.pt", "1.pt", "2.pt"], CLASSES), Layout((2, 3, 5, 6), 40, "yx", "uint16"))
    batch, _ = found.batch(np.arange(3))
    for place, classes, scores in zip(found.places, batch.classes, batch.scores, strict=True):
        dense = oracle.zero_filled(lists.ids[place].numpy(), lists.scores[place].half().numpy(), CLASSES)
        np.testing.assert_array_equal(np.nan_to_num(scores[:-1]), dense[classes])


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_map_with_bad_numbers_leaves_the_others_what_they_are(bad, tmp_path):
    lists = cell_lists(3)
    lists.scores[bad, 0, 0, 0] = torch.nan
    names = [f"{number}.pt" for number in range(3)]
    for name, scores, ids in zip(names, lists.scores, lists.ids, strict=True):
        save_relabel(tmp_path / name, scores, ids)
    loaded = load(Files(str(tmp_path), names, CLASSES))
    good = [number for number in range(3) if number != bad]
    assert loaded.places == {MapKind("float32", 3, 5, 6): good}
    assert [bool(reason) for reason in loaded.reasons] == [number == bad for number in range(3)]
    np.testing.assert_array_equal(loaded.maps[MapKind("float32", 3, 5, 6)][:, 0], lists.scores[good])


def test_a_class_of_next_to_no_weight_has_its_plane_before_one_that_no_cell_lists(tmp_path):
    scores, ids = torch.tensor([1000.0, -1000.0]).reshape(2, 1, 1), torch.tensor([30, 20]).reshape(2, 1, 1)
    save_relabel(tmp_path / "a.pt", scores, ids)
    found = convert(Files(str(tmp_path), ["a.pt"], CLASSES), Layout((2, 2, 1, 1), 3, "yx", "uint16"))
    assert found.classes.tolist() == [[30, 20, 0]]
    assert found.batch(np.arange(1))[0].scores[0, :2, 0, 0].tolist() == [1000, -1000]


def test_files_of_which_none_is_a_map_make_an_empty_batch(tmp_path):
    found = convert(Files(str(tmp_path), ["", "absent.pt"], CLASSES), Layout((2, 3, 5, 6), 9, "yx", "uint16"))
    assert found.reasons == ["", "absent.pt: cannot be read: No such file or directory"]
    batch, dropped = found.batch(np.array([], np.intp))
    assert (len(batch), batch.scores.shape, dropped) == (0, (0, 10, 5, 6), 0)
