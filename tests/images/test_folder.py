"""A folder of class folders: the keys, labels, order and bytes that torchvision's ImageFolder would see."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from generating import picture as png
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from relabel.errors import ImageError, SourceError
from relabel.images import EncodedImage, ImageSource, image_hash, open_source


def put(root: Path, *keys: str) -> dict[str, bytes]:
    """Write one image of its own bytes for every key; the bytes by key."""
    written = {key: png(number) for number, key in enumerate(keys)}
    for key, data in written.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return written


def listed(source: ImageSource) -> tuple[str, ...]:
    (part,) = source.listing(None, workers=2, progress=lambda _: None).parts
    return part.keys


def read(source: ImageSource, first: int = 0, count: int = 1000, part: str = ".") -> list[EncodedImage]:
    return list(source.read(part, first, count))


class TestKeysAndLabels:
    def test_a_key_is_the_sorted_posix_path_with_its_extension(self, tmp_path: Path) -> None:
        put(tmp_path, "dog/b.png", "dog/a.png", "cat/deep/er/z.png", "cat/a.b.c.png", "cat.v2/x.png")
        expected = ("cat.v2/x.png", "cat/a.b.c.png", "cat/deep/er/z.png", "dog/a.png", "dog/b.png")
        assert listed(open_source(str(tmp_path))) == expected

    def test_labels_number_the_sorted_top_folders_and_the_root_has_none(self, tmp_path: Path) -> None:
        put(tmp_path, "b/1.png", "a/2.png", "a/b/3.png", "root.png")
        (tmp_path / "aa-empty").mkdir()
        labels = {image.key: image.label for image in read(open_source(str(tmp_path)))}
        assert labels == {"a/2.png": 0, "a/b/3.png": 0, "b/1.png": 2, "root.png": -1}
        listing = open_source(str(tmp_path)).listing(None, workers=1, progress=lambda _: None)
        assert listing.record.class_names == ("a", "aa-empty", "b")
        root = open_source(str(tmp_path / "b")).listing(None, workers=1, progress=lambda _: None)
        assert root.record.class_names is None

    def test_keys_and_labels_are_those_of_torchvision(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            "n02/x.png",
            "n01/y.JPG",
            "n01/sub/z.JPEG",
            "n9/.hidden.png",
            *(f"n10/w{e}" for e in IMG_EXTENSIONS),
        )
        theirs = {Path(p).relative_to(tmp_path).as_posix(): label for p, label in ImageFolder(str(tmp_path)).samples}
        ours = {image.key: image.label for image in read(open_source(str(tmp_path)))}
        assert ours == theirs

    def test_other_files_are_no_images(self, tmp_path: Path) -> None:
        put(tmp_path, "a/x.png", "a/x.png.part", "a/x.txt", "a/xpng", "a/png", "a/x.png~", "folder.png/y.png")
        assert listed(open_source(str(tmp_path))) == ("a/x.png", "folder.png/y.png")

    def test_a_hostile_name_is_only_a_name(self, tmp_path: Path) -> None:
        names = (
            "a b.png",
            "$(touch owned).png",
            "-rf.png",
            "pipe:touch owned #.png",
            "new\nline.png",
            "é漢.png",
            "*.png",
        )
        written = put(tmp_path, *(f"cls/{name}" for name in names))
        assert {image.key: image.data for image in read(open_source(str(tmp_path)))} == written
        assert not Path("owned").exists()

    @pytest.mark.parametrize("root", [".", "./", "../images"])
    def test_keys_do_not_depend_on_how_the_root_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
    ) -> None:
        put(tmp_path / "images", "a/x.png", "y.png")
        monkeypatch.chdir(tmp_path / "images")
        assert [(i.key, i.label) for i in read(open_source(root))] == [("a/x.png", 0), ("y.png", -1)]


class TestReading:
    def test_read_gives_the_listed_order_and_the_files_bytes(self, tmp_path: Path) -> None:
        written = put(tmp_path, *(f"{c}/{n}.png" for c in ("b", "a", "c/d") for n in (10, 9, 1)))
        source = open_source(str(tmp_path))
        keys = listed(source)
        images = read(source)
        assert tuple(image.key for image in images) == keys == tuple(sorted(written))
        assert [image.data for image in images] == [written[key] for key in keys]

    @pytest.mark.parametrize(("first", "count"), [(0, 1), (2, 3), (4, 100), (6, 1)])
    def test_a_span_is_a_slice_of_the_listing(self, tmp_path: Path, first: int, count: int) -> None:
        keys = tuple(put(tmp_path, *(f"a/{n}.png" for n in range(6))))
        source = open_source(str(tmp_path))
        listed(source)
        assert tuple(image.key for image in read(source, first, count)) == keys[first : first + count]

    def test_reading_without_a_listing_is_the_same(self, tmp_path: Path) -> None:
        put(tmp_path, "b/1.png", "a/2.png", "3.png")
        source = open_source(str(tmp_path))
        listed(source)
        assert read(open_source(str(tmp_path))) == read(source)

    def test_progress_adds_up_to_the_images(self, tmp_path: Path) -> None:
        put(tmp_path, "a/1.png", "a/2.png", "b/3.png", "4.png")
        counts: list[int] = []
        open_source(str(tmp_path)).listing(None, workers=1, progress=counts.append)
        assert sum(counts) == 4


class TestLinks:
    def test_two_class_folders_with_one_target_are_two_classes(self, tmp_path: Path) -> None:
        put(tmp_path, "cat/1.png", "dog/2.png")
        (tmp_path / "canine").symlink_to(tmp_path / "dog")
        theirs = {Path(p).relative_to(tmp_path).as_posix(): label for p, label in ImageFolder(str(tmp_path)).samples}
        assert theirs == {"canine/2.png": 0, "cat/1.png": 1, "dog/2.png": 2}
        assert {image.key: image.label for image in read(open_source(str(tmp_path)))} == theirs

    def test_a_class_folder_may_lie_elsewhere(self, tmp_path: Path) -> None:
        put(tmp_path, "elsewhere/1.png", "root/a/2.png")
        (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
        assert [(i.key, i.label) for i in read(open_source(str(tmp_path / "root")))] == [("a/2.png", 0), ("b/1.png", 1)]

    def test_a_loop_of_links_ends(self, tmp_path: Path) -> None:
        put(tmp_path, "a/b/1.png", "a/2.png")
        (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
        (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
        assert listed(open_source(str(tmp_path))) == ("a/2.png", "a/b/1.png")

    def test_a_link_to_an_image_is_read_through(self, tmp_path: Path) -> None:
        written = put(tmp_path, "store/blob.png", "root/a/1.png")
        (tmp_path / "root" / "a" / "2.png").symlink_to(tmp_path / "store" / "blob.png")
        assert read(open_source(str(tmp_path / "root")))[1].data == written["store/blob.png"]


class TestBadFolders:
    def test_a_folder_without_images_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "empty" / "cls").mkdir(parents=True)
        (tmp_path / "empty" / "cls" / "readme.txt").write_text("no images")
        with pytest.raises(SourceError, match=r"empty holds no images"):
            listed(open_source(str(tmp_path / "empty")))

    def test_an_unset_variable_is_not_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, "a/1.png")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SourceError, match="empty"):
            open_source("")

    def test_a_missing_folder_is_refused_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"no such file: .*nowhere"):
            open_source(str(tmp_path / "nowhere"))

    @pytest.mark.parametrize("pattern", ["a/1.png", "a/*.png", "a/{1,2}.png"])
    def test_images_in_the_place_of_their_folder_are_refused(self, tmp_path: Path, pattern: str) -> None:
        put(tmp_path, "a/1.png", "a/2.png")
        with pytest.raises(SourceError, match=r"a/1\.png is a single image\. IMAGES is the folder"):
            open_source(f"{tmp_path}/{pattern}")

    def test_an_unreadable_folder_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, "a/1.png", "locked/2.png")
        scandir = os.scandir

        def refusing(path: str) -> Iterator[os.DirEntry[str]]:
            # Permission bits do not bind root, who runs the tests in containers.
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        with pytest.raises(SourceError, match=r"cannot read the folder .*locked: Permission denied"):
            listed(open_source(str(tmp_path)))

    def test_a_folder_that_went_away_fails_no_image(self, tmp_path: Path) -> None:
        put(tmp_path / "disk", "a/1.png", "a/2.png")
        source = open_source(str(tmp_path / "disk"))
        listed(source)
        (tmp_path / "disk").rename(tmp_path / "elsewhere")
        for _ in range(2):
            with pytest.raises(SourceError, match=r"cannot read a/1\.png: .*disk is not the folder that was listed"):
                read(source)
            # What an unmounted disk leaves.
            (tmp_path / "disk").mkdir(exist_ok=True)

    def test_too_many_open_files_fail_no_image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, "a/1.png")
        source = open_source(str(tmp_path))
        listed(source)

        def none_left(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "open", none_left)
        with pytest.raises(SourceError, match=r"Too many open files.*more"):
            read(source)


def not_utf8(path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(path.parent) + b"/\xe9.png")).write_bytes(png(0))
    except OSError:
        pytest.skip("this file system refuses such names itself")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


class TestOneBadFile:
    """It is one failed image, with its reason; its neighbours are read, and nothing is waited for."""

    BAD: ClassVar[dict[str, tuple[Callable[[Path], object], str]]] = {
        "vanished": (lambda path: None, "No such file or directory"),
        "folder": (Path.mkdir, "a folder, not a regular file"),
        "pipe": (os.mkfifo, "a pipe, not a regular file"),
        "socket": (make_socket, "a socket, not a regular file"),
        "device": (lambda path: path.symlink_to("/dev/zero"), "a device, not a regular file"),
        "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        "dangling": (lambda path: path.symlink_to("gone"), "No such file or directory"),
    }

    @pytest.mark.parametrize("kind", BAD)
    @pytest.mark.parametrize("is_list", [False, True])
    def test_is_one_failed_image(
        self, tmp_path: Path, kind: str, is_list: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The name of a socket must be short.
        monkeypatch.chdir(tmp_path)
        written = put(Path("photos"), "a/1.png", "a/2.png", "b/3.png")
        if is_list:
            Path("list").write_text("a/1.png\na/2.png\nb/3.png\n")
        source = open_source("photos", "list" if is_list else None)
        listed(source)
        make, reason = self.BAD[kind]
        bad = Path("photos/a/2.png")
        bad.unlink()
        make(bad)
        images = read(source)
        assert [image.key for image in images] == list(written)
        assert [image.error for image in images] == ["", f"cannot be read: {reason}", ""]
        assert [image.image_hash for image in images] == [image_hash(written["a/1.png"]), 0, image_hash(images[2].data)]
        with pytest.raises(ImageError, match=reason):
            images[1].encoded()

    def test_is_not_read_where_it_is_larger_than_any_image(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path, "a/1.png", "a/2.png")
        with (tmp_path / "a" / "1.png").open("r+b") as file:
            file.truncate(7 << 30)
        (first, second) = read(open_source(str(tmp_path)))
        assert first.error == f"cannot be read: too large: {7 << 30} bytes, and at most {1 << 30} are read"
        assert not second.error

    def test_may_be_one_by_its_name(self, tmp_path: Path) -> None:
        put(tmp_path, "a/1.png", "z/2.png")
        not_utf8(tmp_path / "a" / "1.png")
        images = read(open_source(str(tmp_path)))
        assert [image.key for image in images] == ["a/1.png", "a/\\udce9.png", "z/2.png"]
        assert ["not valid UTF-8" in image.error for image in images] == [False, True, False]


class TestLeftOut:
    def test_is_counted_by_what_it_is(self, tmp_path: Path) -> None:
        names = ("1.HEIC", "2.heic", "note.txt", ".DS_Store", "README", "x.png~", "y.this is a sentence", "4.jfif")
        put(tmp_path, "top.png", *(f"a/{name}" for name in names), "b/3.avif")
        (tmp_path / "c").symlink_to(tmp_path / "gone")
        listing = open_source(str(tmp_path)).listing(None, workers=1, progress=lambda _: None)
        assert listing.parts[0].keys == ("a/4.jfif", "b/3.avif", "top.png")
        assert listing.left_out == {
            ".heic": 2,
            ".txt": 1,
            "hidden files": 1,
            "files without a suffix": 1,
            "other files": 2,
            "links that lead nowhere": 1,
            "images outside the class folders": 1,
        }
