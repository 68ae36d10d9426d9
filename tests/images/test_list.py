"""A text file that lists images: its lines are the rows, and what is wrong with one is told by its number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images.test_folder import put

from relabel.errors import SourceError
from relabel.images import EncodedImage, ImageSource, Listing, open_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images."""
    put(tmp_path / "photos", "b/1.png", "a/2.png", "a/with space.PNG", "top.unusual")
    return tmp_path / "photos"


def opened(root: Path, lines: bytes) -> ImageSource:
    (root.parent / "list.txt").write_bytes(lines)
    return open_source(str(root), root.parent / "list.txt")


def listed(source: ImageSource) -> Listing:
    return source.listing(3, workers=2, progress=lambda _: None)


def read(source: ImageSource) -> list[EncodedImage]:
    return [image for span in source.spans(None) for piece in span for image in source.read(*piece)]


def test_the_order_of_the_lines_is_the_order_of_the_rows(root):
    source = opened(root, b"top.unusual\nb/1.png\n./a//with space.PNG\nb/../a/2.png")
    listing = listed(source)
    keys = ("top.unusual", "b/1.png", "a/with space.PNG", "a/2.png")
    assert (listing.parts[0].keys, listing.record.kind, source.root_name) == (keys, "list", "photos")
    assert listing.record.shards == ("images 0 to 3", "images 3 to 4")
    images = read(source)
    assert [(image.key, image.data, image.label) for image in images] == [
        (key, (root / key).read_bytes(), -1) for key in keys
    ]
    assert [image.key for image in source.find({"a/2.png": "", "b/1.png": "", "no": ""}, pytest.fail)] == [
        "b/1.png",
        "a/2.png",
    ]


@pytest.mark.parametrize(
    ("classes", "labels", "names"),
    [
        ((b"\t7", b"", b"\t-1", b"\t0"), [7, -1, -1, 0], None),
        ((b"\tzebra", b"", b"\tn01 cat", b"\tzebra"), [1, -1, 0, 1], ("n01 cat", "zebra")),
    ],
)
def test_a_class_is_a_number_or_a_name_that_has_one(root, classes, labels, names):
    keys = (b"b/1.png", b"a/2.png", b"a/with space.PNG", b"top.unusual")
    source = opened(root, b"".join(key + text + b"\n" for key, text in zip(keys, classes, strict=True)))
    assert [image.label for image in read(source)] == labels
    assert listed(source).record.class_names == names


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"", "line 1 names no file"),
        (b"b/1.png\n\na/2.png\n", "line 2 names no file"),
        (b"b/1.png\n\tcat\n", "line 2 names no file"),
        (b"b/1.png\na/2.png\nb//1.png\n", "line 3 names b/1.png, as line 1 does"),
        (b"/etc/passwd\n", "line 1 is the absolute path /etc/passwd: write it relative"),
        (b"a/../../photos/b/1.png\n", "line 1 leaves IMAGES: ../photos/b/1.png"),
        (b"..\n", "line 1 leaves IMAGES"),
        (b"b/1.png\t-3\n", "line 1 has the class -3: a class is a name, a number below 1000000000, or -1"),
        (b"b/1.png\t0\na/2.png\t99999999999\n", "line 2 has the class 99999999999"),
        (b"b/1.png\r\n", "line 1 ends in a carriage return"),
        (b"\xef\xbb\xbfb/1.png\n", "line 1 begins with a byte order mark"),
        (b"b/1.png\nb/\xff.png\n", "line 2 is not UTF-8"),
        (b"b/1.png\0\n", "line 1 holds a zero byte"),
        (b"b/1.png\t\n", "line 1 must hold one class behind its tab"),
        (b"b/1.png\t1\t2\n", "line 1 must hold one class behind its tab"),
        (b"b/1.png\t3\na/2.png\tcat\n", "a class is the number 3 in line 1 and the name 'cat' in line 2"),
        (b"/%d\n" * 13, "line 10 is the absolute path /%d: write it relative to IMAGES\n  and 3 more lines"),
    ],
)
def test_lines_that_name_no_image_are_told_by_their_numbers(root, lines, said):
    with pytest.raises(SourceError) as caught:
        listed(opened(root, lines))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_one_failed_image_unless_all_are(root):
    first, second = read(opened(root, b"b/gone.png\t3\na/2.png\t4\n"))
    assert (first.key, first.label, first.error) == ("b/gone.png", 3, "cannot be read: No such file or directory")
    assert (second.label, second.error) == (4, "")
    with pytest.raises(SourceError, match=r"none of the 2 files that .*list.txt lists is there: .*/x\.png"):
        listed(opened(root, b"x.png\ny.png\n"))


def test_a_list_that_is_a_pipe_is_refused_and_not_waited_for(root):
    os.mkfifo(root.parent / "pipe")
    with pytest.raises(SourceError, match=r"cannot read the list .*: a pipe, not a regular file"):
        listed(open_source(str(root), root.parent / "pipe"))


def test_a_list_or_a_folder_that_is_not_there_is_refused(root):
    with pytest.raises(SourceError, match=r"cannot read the list .*none: No such file"):
        listed(open_source(str(root), root / "none"))
    with pytest.raises(SourceError, match="is no folder: with --files, IMAGES is the folder"):
        open_source("nowhere/{0..9}.tar", root / "none")
