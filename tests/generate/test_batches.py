"""The data stage: what is read is what was listed, in order, and every thread ends."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import Any

import generating
import pytest
import torch
from PIL import Image

from relabel.errors import ImageError, SourceError
from relabel.generate import decoders
from relabel.generate.batches import BatchPlan, DecodedBatch, DecodedBatches, ShardFailure
from relabel.geometry import Footprint
from relabel.images import DecodedImage, EncodedImage, decode_and_fit, image_hash
from relabel.manifest import Preprocessing, fingerprint
from relabel.plan import ShardTask, plan

PREPROCESSING = Preprocessing(image_size_hw=generating.IMAGE_SIZE_HW, mean=generating.MEAN, std=(1.0,) * 3)


def image(number: int) -> EncodedImage:
    return EncodedImage(f"{number:04d}", generating.picture(number), number % 7)


class Source:
    """Parts by name; each reads what its function yields."""

    def __init__(self, **parts: Callable[[], Iterator[EncodedImage]]) -> None:
        self._parts = parts

    def read(self, part: str, first: int, count: int) -> Iterator[EncodedImage]:
        yield from itertools.islice(self._parts[part](), first, first + count)

    def stop(self) -> None:
        pass


def pictures(count: int) -> Callable[[], Iterator[EncodedImage]]:
    return lambda: map(image, range(count))


def run(source: Source, tasks: tuple[ShardTask, ...], *, listed: bool = True, **given: Any) -> DecodedBatches:
    listing = [[f"{n:04d}" for n in range(t.first, t.first + t.count)] for t in tasks] if listed else []
    prints = tuple(map(fingerprint, listing))
    settings = {"batch_size": 4, "threads": 2, "views": (PREPROCESSING,), "device": torch.device("cpu")} | given
    return DecodedBatches(source, tasks, BatchPlan(fingerprints=prints, **settings))


def collected(source: Source, tasks: tuple[ShardTask, ...], **given: Any) -> list[DecodedBatch | ShardFailure]:
    with run(source, tasks, **given) as decoded:
        return list(decoded)


@pytest.mark.parametrize(("listed", "sizes"), [(True, [4, 3, 3]), (False, [4, 4, 2])])
def test_batches_are_evened_out_where_the_count_is_known(listed, sizes):
    found = collected(Source(a=pictures(10)), plan([("a", 10)]), listed=listed)
    assert [len(batch.rows) for batch in found] == sizes
    assert [batch.is_last for batch in found] == [False, False, True]


def cut(count: int) -> Callable[[], Iterator[EncodedImage]]:
    def images() -> Iterator[EncodedImage]:
        yield from map(image, range(count))
        raise SourceError("the tar is cut")

    return images


def renamed() -> Iterator[EncodedImage]:
    yield from map(image, range(8))
    yield EncodedImage("new", generating.picture(8), 0)


@pytest.mark.parametrize(
    ("images", "listed", "what"),
    [
        (cut(6), True, "the tar is cut"),
        (cut(0), False, "the tar is cut"),
        (pictures(8), True, "no longer holds the images that were listed: 9 from number 0 on, and now 8"),
        (renamed, True, "no longer holds the images that were listed"),
        (pictures(0), True, "holds no images"),
        (pictures(0), False, "holds no images"),
    ],
    ids=["cut", "cut at once", "shorter", "renamed", "empty", "empty and never listed"],
)
def test_a_shard_that_is_not_as_listed_has_no_last_batch_and_others_go_on(images, listed, what):
    tasks = plan([("bad", 9), ("good", 5)])
    found = collected(Source(bad=images, good=pictures(5)), tasks, listed=listed)
    failed = [item for item in found if isinstance(item, ShardFailure)]
    assert [item.task for item in failed] == [tasks[0]]
    assert what in str(failed[0].error)
    decoded = [item for item in found if isinstance(item, DecodedBatch)]
    assert not any(batch.is_last for batch in decoded if batch.task == tasks[0])
    assert [len(batch.rows) for batch in decoded if batch.task == tasks[1]] in ([3, 2], [4, 1])


def test_a_fault_in_the_source_is_raised_where_batches_are_taken():
    def images() -> Iterator[EncodedImage]:
        yield image(0)
        raise ZeroDivisionError("a fault, not a damaged source")

    with pytest.raises(ZeroDivisionError, match="a fault"):
        collected(Source(a=images), plan([("a", 2)]))


def test_a_fault_in_a_decoding_thread_is_raised_where_batches_are_taken(monkeypatch):
    def faulty(data: bytes, views: object) -> None:
        raise ZeroDivisionError("a fault, not a damaged image")

    monkeypatch.setattr(decoders, "decode_and_fit", faulty)
    with pytest.raises(ZeroDivisionError, match="a fault"):
        collected(Source(a=pictures(50)), plan([("a", 50)]))


def endless(seconds: float) -> Iterator[EncodedImage]:
    for number in itertools.cycle(range(5)):
        time.sleep(seconds)
        yield image(number)


@pytest.mark.parametrize(
    ("taken", "batch_size", "seconds", "decode"),
    [(0, 4, 0.0, "cpu"), (1, 4, 0.0, "cpu"), (0, 10**6, 0.01, "cpu"), (1, 4, 0.0, "cuda")],
    ids=["at once", "later", "slow", "a device's decoder"],
)
def test_closing_early_ends_a_source_that_never_does(taken, batch_size, seconds, decode):
    source, views = Source(a=lambda: endless(seconds)), (replace(PREPROCESSING, decode=decode),)
    with run(source, plan([("a", 10**9)]), listed=False, batch_size=batch_size, views=views) as decoded:
        assert len(list(itertools.islice(decoded, taken))) == taken
    # That no thread is left is looked at after every test.


def jpeg(number: int) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = number % 8 + 1
    Image.open(io.BytesIO(generating.picture(number))).save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


def hollow(data: bytes) -> bytes:
    """A JPEG whose header and end are whole, and nothing between."""
    return data[: data.index(b"\xff\xda")] + b"\xff\xd9"


def mixed() -> Iterator[EncodedImage]:
    """JPEGs, PNGs, what is no image, and a JPEG that looks whole until it is decoded."""
    kinds = [lambda n: jpeg(n), generating.picture, lambda n: b"no picture", lambda n: hollow(jpeg(n))]
    for number in range(21):
        yield EncodedImage(f"{number:04d}", kinds[number % 4](number), number)


VIEWS = (
    replace(PREPROCESSING, fit="center", crop=0.5),
    replace(PREPROCESSING, image_size_hw=(9, 40)),
    replace(PREPROCESSING, fit="letterbox", interpolation="bicubic"),
)


def alone(data: bytes, views: tuple[Preprocessing, ...]) -> tuple[list[DecodedImage], str]:
    """What an image is in each view, or no views and why."""
    try:
        return decode_and_fit(data, views), ""
    except ImageError as error:
        return [], str(error)


@pytest.mark.parametrize("decode", ["cpu", "cuda"])
def test_every_view_of_every_image_is_what_it_would_be_alone(decode):
    views = tuple(replace(view, decode=decode) for view in VIEWS)
    found = collected(Source(a=mixed), plan([("a", 21)]), views=views, batch_size=8)
    rows = [row for batch in found for row in batch.rows]
    pixels = [torch.cat([batch.views[i] for batch in found]) for i in range(3)]
    assert [row.key for row in rows] == [f"{n:04d}" for n in range(21)]
    for image, row, *shown in zip(mixed(), rows, *pixels, strict=True):
        expected, reason = alone(image.data, views)
        assert (row.image_hash, row.label, row.error) == (image_hash(image.data), image.label, reason)
        facts = (row.size_hw, row.orientation, row.footprint)
        assert facts == (((0, 0), 0, Footprint()) if reason else (*astuple(expected[0].facts), expected[0].footprint))
        for view, one in itertools.zip_longest(shown, expected):
            assert view.equal(one.pixels) if one else not view.any()


@pytest.mark.parametrize("decode", ["cpu", "cuda"])
def test_images_that_took_a_slower_decoder_are_counted(monkeypatch, decode):
    def refusing(encoded: Any, **_: Any) -> None:
        raise RuntimeError("unsupported")

    # For the one the CPU's own decoder refuses JPEGs, for the other the device does.
    monkeypatch.setattr(f"relabel.images.{'decode' if decode == 'cpu' else 'device'}.decode_jpeg", refusing)
    views = (replace(PREPROCESSING, decode=decode),)
    found = collected(Source(a=mixed), plan([("a", 21)]), views=views, batch_size=8)
    assert [batch.fallbacks for batch in found] == [2, 2, 2]


def test_a_batch_for_which_the_device_has_no_memory_is_decoded_by_the_cpu(monkeypatch):
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("relabel.generate.decoders.decode_and_fit_on", full)
    found = collected(Source(a=mixed), plan([("a", 21)]), views=(replace(PREPROCESSING, decode="cuda"),), batch_size=8)
    expected = collected(Source(a=mixed), plan([("a", 21)]), batch_size=8)
    assert sum(batch.fallbacks for batch in found) > 0
    for batch, other in zip(found, expected, strict=True):
        assert batch.views[0].equal(other.views[0])


@pytest.mark.parametrize("decode", ["cpu", "cuda"])
def test_a_teacher_on_any_device_gets_the_same_images(device, decode):
    views = tuple(replace(view, decode=decode) for view in VIEWS)
    found = collected(Source(a=mixed), plan([("a", 21)]), views=views, batch_size=8, device=device)
    expected = collected(Source(a=mixed), plan([("a", 21)]), views=VIEWS, batch_size=8)
    for batch, other in zip(found, expected, strict=True):
        assert batch.rows == other.rows
        for view, its in zip(batch.views, other.views, strict=True):
            assert view.device.type == (device.type if decode == "cuda" else "cpu")
            assert view.is_pinned() == (device.type == "cuda" and decode == "cpu")
            # nvJPEG interpolates colours otherwise.
            difference = (view.to(device).int() - its.to(device).int()).abs().float()
            assert difference.mean() <= (0 if device.type == "cpu" or decode == "cpu" else 2)


def test_reading_ahead_is_bounded():
    read: list[int] = []

    def images() -> Iterator[EncodedImage]:
        for number in range(400):
            read.append(number)
            yield image(number)

    with run(Source(a=images), plan([("a", 400)]), ahead=3) as decoded:
        next(iter(decoded))
        # Handed out: 1. Queued: 3. Waiting to be queued: 1. Read, not yet decoded: 1.
        bound = (1 + 3 + 1 + 1) * 4
        deadline = time.monotonic() + 10
        while len(read) < bound and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(read) == bound


def test_decoding_threads_keep_to_themselves_and_to_nobody_else():
    inner: list[int] = []

    def after() -> None:
        inner.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with run(Source(a=pictures(4)), plan([("a", 4)])) as decoded:
            list(decoded)
            in_pool = list(decoded._decoder._pool.map(lambda _: torch.get_num_threads(), range(8)))
        thread = threading.Thread(target=after)
        thread.start()
        thread.join()
        assert set(in_pool) == {1}
        assert (torch.get_num_threads(), inner) == (3, [3])
    finally:
        torch.set_num_threads(before)
