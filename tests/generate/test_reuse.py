"""A data set that grows, shrinks or changes: only new images meet the teacher, and the store is as from scratch."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import generating
import pytest
from commands import parsed, run
from generating import answer, make_teacher, options, picture, samples, write_folder, write_tar
from store.samples import contents
from torch import Tensor

from relabel.errors import InvalidValueError, ManifestMismatchError, StoreError, TeacherError
from relabel.generate import GenerateSummary, generate
from relabel.images import decode_and_fit
from relabel.store import StoreReader, StoreWriter
from relabel.teacher import Teacher

Seen = set[bytes]


def counting(seen: Seen, forward: Callable[[Tensor], Tensor] = answer, **given: object) -> Teacher:
    """A teacher that notes every image that it is shown."""

    def noting(images: Tensor) -> Tensor:
        seen.update(image.numpy().tobytes() for image in images)
        return forward(images)

    return make_teacher(noting, **given)


CENTRE = replace(make_teacher().preprocessing, fit="center", crop=0.5)


def shown(*numbers: int, **of_teacher: object) -> Seen:
    """What a teacher is shown of some pictures."""
    teacher, seen = counting(seen := set(), **of_teacher), seen
    for number in numbers:
        (decoded,) = decode_and_fit(picture(number), [teacher.preprocessing])
        teacher(decoded.pixels[None])
    return seen


def grown(images: str, store: Path, old: Path | str, seen: Seen | None = None, **given: object) -> GenerateSummary:
    """A run that may copy from `old`; the store is then the same as one of a run that copies nothing."""
    of_teacher = {name: given.pop(name) for name in ("preprocessing",) if name in given}
    scratch = {name: value for name, value in given.items() if name not in ("retry_failed", "batch_size")}
    summary = generate(
        images, store, counting(set() if seen is None else seen, **of_teacher), options(reuse=str(old), **given)
    )
    generate(images, store.with_name("scratch"), make_teacher(**of_teacher), options(**scratch))
    assert contents(store) == contents(store.with_name("scratch"))
    return summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(write_folder(tmp_path / "images", 12))


@pytest.fixture
def old(folder: Path, tmp_path: Path) -> Path:
    """A store of 12 images in three shards."""
    generate(str(folder), tmp_path / "old", make_teacher(), options(samples_per_shard=4))
    return tmp_path / "old"


@pytest.mark.parametrize(
    ("of_teacher", "given"),
    [({}, {}), ({"preprocessing": CENTRE}, {"dtype": "float16", "compression": "none"})],
    ids=["whole", "centre"],
)
def test_of_a_data_set_that_grew_only_new_images_meet_the_teacher(folder, tmp_path, of_teacher, given):
    generate(str(folder), tmp_path / "old", make_teacher(**of_teacher), options(samples_per_shard=4, **given))
    write_folder(folder, 17)
    seen: Seen = set()
    summary = grown(str(folder), tmp_path / "new", tmp_path / "old", seen, samples_per_shard=5, **of_teacher, **given)
    assert seen == shown(*range(12, 17), **of_teacher)
    assert (summary.images, summary.copied, summary.shards_published) == (17, 12, 4)


def test_images_that_moved_between_tars_and_changed_their_class_are_copied(tmp_path):
    generating.write_tars(tmp_path / "old-tars", (5, 1, 6))
    generate(str(tmp_path / "old-tars/part-*.tar"), tmp_path / "old", make_teacher(), options())
    tars = tmp_path / "tars"
    tars.mkdir()
    # Image 3 is gone, 12 is new; and classes are called otherwise.
    write_tar(tars / "a.tar", samples([12, 11, 0]))
    write_tar(
        tars / "b.tar", [(n, d + b"0" if n.endswith("cls") else d) for n, d in samples([1, 2, 4, 5, 6, 7, 8, 9, 10])]
    )
    seen: Seen = set()
    assert grown(str(tars / "*.tar"), tmp_path / "new", tmp_path / "old", seen).copied == 11
    assert seen == shown(12)
    # So it is where nothing is listed beforehand.
    unlisted = grown(str(tars / "*.tar"), tmp_path / "unlisted/new", tmp_path / "old", samples_per_shard=9)
    assert (unlisted.copied, unlisted.images) == (11, 12)


def test_a_data_set_that_shrank_asks_the_teacher_nothing(folder, old, tmp_path, monkeypatch):
    shutil.rmtree(folder / "even")
    (folder / "odd" / "003.png").unlink()
    monkeypatch.delattr("relabel.generate.run.fastest_batch_size")
    seen: Seen = set()
    summary = grown(str(folder), tmp_path / "new", old, seen, batch_size="auto")
    assert (seen, summary.copied, summary.batch_size, summary.doubts) == (set(), 5, 0, ())
    # The class of the odd ones was 1.
    assert {row["label"] for row in generating.rows_by_key(tmp_path / "new").values()} == {0}


def test_an_image_that_changed_under_its_name_is_labelled_anew(folder, old, tmp_path):
    (folder / "odd" / "003.png").write_bytes(picture(33))
    seen: Seen = set()
    assert grown(str(folder), tmp_path / "new", old, seen, batch_size="auto").copied == 11
    assert seen == shown(33)


def test_failed_images_are_tried_again_and_with_retry_failed_only_those(folder, old, tmp_path):
    (folder / "even" / "004.png").write_bytes(b"no picture")
    first = grown(str(folder), tmp_path / "new", old, samples_per_shard=4)
    assert (first.copied, first.failed) == (11, 1)
    shutil.rmtree(tmp_path / "scratch")
    (folder / "even" / "004.png").write_bytes(picture(44))
    seen: Seen = set()
    again = grown(str(folder), tmp_path / "new", old, seen, samples_per_shard=4, retry_failed=True)
    assert seen == shown(44)
    assert (again.shards_published, again.copied) == (1, 3)
    # What an older store says of a failed image is not copied: the teacher is asked again.
    red = folder / "even" / "004.png"
    red.write_bytes(picture(44, red=250))
    given = {"samples_per_shard": 4}
    generate(str(folder), tmp_path / "failed", make_teacher(generating.nan_where_red), options(**given))
    summary = grown(str(folder), tmp_path / "newer/new", tmp_path / "failed", seen := set(), **given)
    assert (len(seen), summary.copied, summary.failed) == (1, 11, 0)


def test_a_run_that_copies_and_was_stopped_goes_on_in_processes_too(folder, old, tmp_path):
    write_folder(folder, 17)

    def stopping(images: Tensor) -> Tensor:
        raise TeacherError("enough")

    given = {"samples_per_shard": 4, "reuse": str(old)}
    # Image 12 is new, and in the second shard.
    with pytest.raises(TeacherError, match=r"shard 1 .*enough"):
        generate(str(folder), tmp_path / "new", make_teacher(stopping), options(**given))
    there = generating.published(tmp_path / "new")
    parts = [
        generate(str(folder), tmp_path / "new", make_teacher(), options(**given, rank=rank, world_size=3))
        for rank in (1, 2)
    ]
    last = grown(str(folder), tmp_path / "new", old, samples_per_shard=4)
    assert last.shards_published
    assert last.shards_skipped == there + sum(part.shards_published for part in parts)
    assert last.copied + sum(part.copied for part in parts) == 12 - 4 * there


def test_shards_that_an_unfinished_store_has_are_copied_also_from_a_url(folder, old, tmp_path, monkeypatch):
    monkeypatch.setenv("RELABEL_CACHE", str(tmp_path / "cache"))
    with StoreWriter(old, StoreReader(old).manifest).claim(1, again=True) as claimed:
        claimed.retract()
    seen: Seen = set()
    assert grown(str(folder), tmp_path / "new", f"file://{old}", seen).copied == 8
    assert seen == shown(8, 10, 1, 3)


def test_what_is_damaged_is_labelled_anew_and_told(folder, old, tmp_path, caplog, monkeypatch):
    files = {name: [old / name / spec.file_name(s) for s in range(3)] for name, spec in StoreReader(old).arrays.items()}
    # As in a shard of thousands of rows: small reads do not tell that a byte of a map changed.
    monkeypatch.setattr("relabel.store.shard.ENDS_BYTES", 8)
    monkeypatch.setattr("relabel.store.digest.ENDS_BYTES", 8)
    shutil.rmtree(old)
    generate(str(folder), old, make_teacher(), options(samples_per_shard=4))
    data = bytearray(files["scores"][0].read_bytes())
    data[len(data) // 4] ^= 255
    files["scores"][0].write_bytes(data)
    files["image_hash"][1].unlink()
    shutil.copy(files["classes"][0], files["classes"][2])
    seen: Seen = set()
    with caplog.at_level(logging.WARNING):
        assert grown(str(folder), tmp_path / "new", old, seen).copied == 3
    assert len(seen) == 9
    told = [text for text in caplog.messages if "damaged; what it cannot give is labelled anew" in text]
    assert [text.split(" of ")[0] for text in told] == ["shard 1", "shard 2", "shard 0"]


def test_an_older_store_of_other_options_or_the_same_store_is_refused(folder, old, tmp_path, monkeypatch):
    new = tmp_path / "new"
    other = make_teacher(record={"weights_digest": "1" * 64})
    with pytest.raises(
        ManifestMismatchError, match=r"cannot be copied.*\n  teacher\.weights_digest: '0{64}' != '1{64}'\n"
    ):
        generate(str(folder), new, other, options(reuse=str(old)))
    with pytest.raises(ManifestMismatchError, match=r"\n  scores\.compression: 'zstd' != 'none'\n"):
        generate(str(folder), new, make_teacher(), options(reuse=str(old), compression="none"))
    with pytest.raises(StoreError, match="relabel store"):
        generate(str(folder), new, make_teacher(), options(reuse=str(folder)))
    (tmp_path / "link").symlink_to(old)
    monkeypatch.setenv("HOME", str(tmp_path))
    for same in ("~/old", str(tmp_path / "link")):
        with pytest.raises(InvalidValueError, match="older store and the new one are both"):
            generate(str(folder), old, make_teacher(), options(reuse=same))
    assert not new.exists()


def refused(images: str, store: Path, teacher: Teacher | None = None, **given: object) -> list[str]:
    """What a run says of a store that was made of another list, without the first line."""
    with pytest.raises(ManifestMismatchError) as caught:
        generate(images, store, teacher or make_teacher(), options(**given))
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_a_changed_list_says_which_images_are_new_or_gone_and_what_to_do(folder, old, tmp_path):
    write_folder(folder, 17)
    (folder / "odd" / "003.png").unlink()
    *lines, advice = refused(str(folder), old, samples_per_shard=4)
    assert lines == [
        "5 images are new: 'even/012.png', 'even/014.png', 'even/016.png', ...",
        "1 images are gone: 'odd/003.png'",
    ]
    assert advice.endswith(f"label only what is new: the same command with another STORE and --reuse {old}")
    with StoreWriter(old, StoreReader(old).manifest).claim(2, again=True) as claimed:
        claimed.retract()
    lines = refused(str(folder), old, make_teacher(record={"name": "another"}), samples_per_shard=4)
    assert lines[0] == "teacher.name: 'by hand' != 'another'"
    assert lines[1].startswith("9 images are new or in its 1 unpublished shards: ")
    assert "--reuse" not in lines[-1]
    # The same images in shards of another size.
    generate(str(folder), tmp_path / "b", make_teacher(), options(samples_per_shard=4))
    assert any(
        line.startswith("data.rows_per_shard: 4 != 5")
        for line in refused(str(folder), tmp_path / "b", samples_per_shard=5)
    )


def test_a_changed_list_of_tars_says_what_moved_and_unlisted_which_tars_changed(tmp_path):
    tars = tmp_path / "tars"
    images = generating.write_tars(tars, (3, 3))
    generate(images, tmp_path / "listed", make_teacher(), options())
    generate(images, tmp_path / "unlisted", make_teacher(), options(samples_per_shard=9))
    (tars / "part-00.tar").unlink()
    write_tar(tars / "part-01.tar", samples([4, 3, 0, 5]))
    write_tar(tars / "part-02.tar", samples([1, 6, 2]))
    assert refused(images, tmp_path / "listed")[:-1] == [
        "1 images are new: 'even/006'",
        "3 images are in another tar: 'even/000', 'odd/001', 'even/002'",
    ]
    assert refused(images, tmp_path / "unlisted", samples_per_shard=9)[:-1] == [
        "1 tars are new: 'part-02.tar'",
        "1 tars are gone: 'part-00.tar'",
    ]
    write_tar(tars / "part-01.tar", samples([3, 4, 5]))
    write_tar(tars / "part-02.tar", samples([2, 1, 0]))
    (tars / "part-02.tar").rename(tars / "part-00.tar")
    assert refused(images, tmp_path / "listed")[:-1] == ["the same images are in another order"]


def test_a_command_copies_and_says_how_many(folder, old, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ["generate", folder, "--teacher", "generating:SlowTeacher", "--device", "cpu", "--planes", 3]
    command += ["--profile", 4, "--quiet"]
    assert run(*command, tmp_path / "first").exit_code == 0
    write_folder(folder, 13)
    made = run(*command, tmp_path / "new", "--reuse", "~/first")
    assert "13 images in " in made.stdout
    assert "; 12 of them copied, not labelled; waited" in made.stdout
    told = parsed(run(*command, tmp_path / "newer", "--reuse", "~/new", "--json").stdout)
    assert (told["copied"], told["images"], told["batch_size"]) == (13, 13, 0)
