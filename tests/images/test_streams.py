"""What commands bring: with a limit to waiting, again where it stalls, each image once, and nothing left running."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from generating import samples, write_tar

from relabel.errors import SourceError
from relabel.images import EncodedImage, ImageSource, open_source
from relabel.images import streams as module
from relabel.options import SourceOptions


@pytest.fixture
def tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six samples; and no pauses between tries."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    return write_tar(tmp_path / "x.tar", samples(range(6)))


def opened(command: str, retries: int = 1, timeout_seconds: float = 1.0) -> ImageSource:
    options = SourceOptions(source_timeout_seconds=timeout_seconds, source_retries=retries)
    return open_source(f"pipe:{command}", options=options)


def read(source: ImageSource) -> list[EncodedImage]:
    return [image for ((part, first, count),) in source.spans(None) for image in source.read(part, first, count)]


def by_turns(folder: Path, *commands: str) -> str:
    """A command that is another one each time."""
    cases = " ".join(f"{number}) {command};;" for number, command in enumerate(commands, 1))
    return f"cd {folder}; echo >> turns; case $(wc -l < turns) in {cases} esac"


@pytest.mark.parametrize("fault", ["head -c 15000 x.tar; sleep 60", "head -c 15000 x.tar; exit 7", "sleep 60"])
def test_a_stalled_or_failed_read_is_done_again_and_no_image_comes_twice(tar: Path, fault: str) -> None:
    assert tar.stat().st_size > 20_000
    found = read(opened(by_turns(tar.parent, fault, f"cat {tar}")))
    assert found == read(open_source(str(tar)))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("head -c 15000 x.tar; sleep 60", r"x\.tar could not be fetched: nothing came for 1 seconds \(--source-tim"),
        ("head -c 15000 x.tar; exit 7", r"x\.tar could not be fetched: the command that fetches it ended with exit 7"),
    ],
)
def test_a_read_that_fails_each_time_fails_its_tar_by_name(tar: Path, fault: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        read(opened(by_turns(tar.parent, fault, fault, "touch third")))
    assert not (tar.parent / "third").exists()


def test_another_tar_than_before_is_refused(tar: Path) -> None:
    write_tar(tar.parent / "other.tar", samples(range(1, 7)))
    with pytest.raises(SourceError, match="another tar than a moment ago"):
        read(opened(by_turns(tar.parent, f"head -c 15000 {tar}; exit 1", "cat other.tar")))


def test_a_reader_that_takes_its_time_is_no_stall(tar: Path) -> None:
    images = opened(f"cat {tar}", retries=0).read("x.tar", 0, 100)
    assert next(images).key == "even/000"
    threading.Event().wait(0.5)
    assert len(list(images)) == 5


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def pids(tar: Path) -> Iterator[list[int]]:
    """The processes of `ENDLESS`, once they are there; none of them outlives the test's reading."""
    found: list[int] = []
    yield found
    assert found
    # A killed process that nobody waits for, as what a shell left in the background, is gone a moment later.
    until = time.monotonic() + 20
    while any(map(is_running, found)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(is_running, found))


ENDLESS = "echo $$ > first; (echo 'me' | sleep 1000) & echo $! > second; cat x.tar; sleep 1000"


def pids_below(folder: Path) -> list[int]:
    return [int((folder / name).read_text()) for name in ("first", "second")]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_read_that_another_thread_stops_ends_after_its_command(tar: Path) -> None:
    source = opened(f"cd {tar.parent}; trap '' TERM; {ENDLESS}", retries=0, timeout_seconds=60)
    images = source.read(*source.spans(None)[0][0])
    next(images)
    threading.Timer(0.05, source.stop).start()
    with pytest.raises(SourceError, match="reading was stopped"):
        list(images)
    assert not is_running(pids_below(tar.parent)[0])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["left early", "stopped", "stalled"])
def test_no_command_or_child_of_it_outlives_the_read(tar: Path, pids: list[int], how: str) -> None:
    source = opened(f"cd {tar.parent}; {ENDLESS}", retries=0, timeout_seconds=0.4 if how == "stalled" else 60)
    images = source.read(*source.spans(None)[0][0])
    first = next(images)
    pids += pids_below(tar.parent)
    assert all(map(is_running, pids))
    assert source.reading == "x.tar"
    if how == "left early":
        images.close()
    else:
        # Stopped, in the midst of a wait for what never comes.
        threading.Timer(0.2, source.stop if how == "stopped" else lambda: None).start()
        with pytest.raises(SourceError, match="reading was stopped" if how == "stopped" else "nothing came for 0.4"):
            list(images)
    assert source.reading == ""
    assert first.key == "even/000"
