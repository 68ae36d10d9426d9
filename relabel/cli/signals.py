"""How a signal ends a command: by an exception that lets it clean up, and by force where that takes too long.

The handlers are the command line's alone: a program that calls relabel answers its signals as it likes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from relabel.errors import RelabelError

_SAID = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
_GRACE_SECONDS = {"SIGINT": 1.0, "SIGTERM": 5.0, "SIGHUP": 5.0}
"""A person waits for Ctrl-C. Schedulers give 10 seconds and more, and a shard may just be published."""


class Ended(KeyboardInterrupt):
    """A signal asks the command to end; what handles Ctrl-C handles the others too."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Ending:
    """What happens from a command's first signal on.

    A handler runs in the main thread, between two steps of Python: not while a library computes or waits for a lock, as
    `Thread.start` does. So the system also writes the signal into a pipe, and a thread that was there before ends the
    process when the grace is over, whatever the main thread is at. That is as safe as a kill: publishing is a rename.
    """

    def __init__(self, go_on: Callable[[], str]) -> None:
        self._go_on = go_on
        self._is_told = self._has_begun = False
        self._numbers = {
            getattr(signal, name): name
            for name in _SAID
            # Ignored for a reason: nohup, or a job in the background of a script.
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN
        }

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Handle signals inside, in the main thread alone; after the first, the process hears of no other."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        woken, waking = socket.socketpair()
        waking.setblocking(False)
        watcher = threading.Thread(target=self._watch, args=(woken,), name="signals", daemon=True)
        watcher.start()
        _forget_in_children()
        before = {number: signal.signal(number, self._handle) for number in self._numbers}
        waked = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(waked)
            if not self._has_begun:
                for number, handler in before.items():
                    signal.signal(number, handler)
                waking.close()
                watcher.join()

    def tell(self, number: int, notes: Sequence[str] = ()) -> str:
        """The sentence for the user, who gets it once; empty the second time."""
        if self._is_told:
            return ""
        self._is_told = True
        said = _SAID[signal.Signals(number).name] + self._go_on()
        return "; ".join([said, *notes])

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        # A second one must not interrupt the cleaning up, which has an end, nor Python's own, which restores handlers.
        for each in self._numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    def _watch(self, woken: socket.socket) -> None:
        with woken:
            while (told := woken.recv(1)) and told[0] not in self._numbers:
                continue
        if not told:
            return
        number = told[0]
        time.sleep(_GRACE_SECONDS[self._numbers[number]])
        if said := self.tell(number):
            os.write(2, f"{said}\n".encode())
        end_children()
        os._exit(128 + number)


@contextlib.contextmanager
def telling_of(store: Path) -> Iterator[None]:
    """Where a signal ends what is done inside, say of the store how much of it is safe."""
    try:
        yield
    except Ended as error:
        from relabel.store import StoreReader

        with contextlib.suppress(RelabelError, OSError):
            reader = StoreReader(store, partial=True)
            error.add_note(f"{len(reader.published)} of {reader.num_shards} shards of {store} are published")
        raise


def end_children() -> None:
    """Kill what this process has started, and what that has: commands of ``pipe:``, processes that read an archive."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            # A name in brackets comes first, and may hold anything.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    ours = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for child in ours - {os.getpid()}:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)


@functools.cache
def _forget_in_children() -> None:
    """A forked child's signals are not its parent's, whose pipe it has."""

    def forget() -> None:
        for name in _SAID:
            number = getattr(signal, name)
            if isinstance(getattr(signal.getsignal(number), "__self__", None), Ending):
                signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
                signal.set_wakeup_fd(-1)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
