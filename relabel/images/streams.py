"""What a URL or a command brings, byte by byte: with a limit to waiting, and with nothing left running behind it."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol, cast
from urllib.parse import urlsplit

from relabel.options import SourceOptions

_TICK_SECONDS = 0.2
"""How soon a read that waits notices that it was stopped."""
_GRACE_SECONDS = 0.5
"""For a command to remove what it made, before it is killed."""
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_SIGPIPE = 141
"""How a shell tells that a command wrote to one that had read enough, such as ``head``: no failure."""
_CURL = ("curl", "--fail", "--silent", "--location", "--connect-timeout", "30")


class FetchError(OSError):
    """What went wrong is the fetching: nothing is known of the tar. `may_pass` says that another try may do better."""

    def __init__(self, what: str, *, may_pass: bool = True) -> None:
        super().__init__(what)
        self.may_pass = may_pass


class Reads:
    """What a source reads at this moment, in many threads, and how to end all of that at once.

    A read that began before `stop` fails at its next byte; one that begins later is another matter.
    """

    def __init__(self, options: SourceOptions) -> None:
        self.retries = options.source_retries
        self._patience_seconds = options.source_timeout_seconds
        self._names: dict[object, str] = {}
        self._open: set[_Fetched] = set()
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    @property
    def oldest(self) -> str:
        """The name of what was begun first and is read still; "" where nothing is."""
        return next(iter(list(self._names.values())), "")

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[threading.Event]:
        """Tell that a tar or an image is being read; the event is set as soon as that is to end."""
        token, stopped = object(), self._stopped
        self._names[token] = name
        try:
            yield stopped
        finally:
            del self._names[token]

    def stop(self) -> None:
        """End the reads under way, and the commands that bring them."""
        with self._lock:
            stopped, self._stopped = self._stopped, threading.Event()
            under_way = list(self._open)
        stopped.set()
        # All at once, that their grace is one.
        for stream in under_way:
            stream.ask()
        for stream in under_way:
            stream.end()

    def pause(self, attempt: int, stopped: threading.Event) -> None:
        """Wait before another try, longer each time."""
        if stopped.wait(min(_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)):
            raise _stopped()

    @contextlib.contextmanager
    def opened(self, url: str, stopped: threading.Event) -> Iterator[io.RawIOBase]:
        """What any URL that webdataset knows brings.

        Raises:
            FetchError: there is no way to fetch it; reading raises it where that fails, or brings nothing for too long.
        """
        stream = _Fetched(_opened(url), self._patience_seconds, stopped)
        with self._lock:
            self._open.add(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._open.discard(stream)
            stream.close()


class Stoppable(Protocol):
    """What can be told to read no further."""

    def stop(self) -> None:
        """End all reads that are under way."""


@contextlib.contextmanager
def stopping(source: Stoppable | None) -> Iterator[None]:
    """Whatever ends the `with` block early, Ctrl-C too, ends the source's reads, which other threads may wait for."""
    try:
        yield
    except BaseException:
        if source is not None:
            source.stop()
        raise


class _Fetched(io.RawIOBase):
    """A stream; its end is reached only where the command that fetches it did well.

    Errors do not print that command: for some URLs an access token stands in it.
    """

    def __init__(self, source: Any, patience_seconds: float, stopped: threading.Event) -> None:
        self._stopped, self._patience_seconds = stopped, patience_seconds
        # webdataset's Pipe closes its command when it is forgotten.
        self._source = source
        # Of a stream that is no process's, such as a user's own way to open URLs, nothing but its bytes is known.
        self._process: subprocess.Popen[bytes] | None = (
            source if isinstance(source, subprocess.Popen) else getattr(source, "proc", None)
        )
        self._stream: IO[bytes] = source if self._process is None else cast(IO[bytes], self._process.stdout)
        self._ended = self._is_over = False
        # Of one thread twice, too: a signal may come while the command is being stopped.
        self._ending = threading.RLock()

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill as much of the buffer as there is; 0 at the end."""
        if self._stopped.is_set():
            raise _stopped()
        if self._ended:
            return 0
        if self._process is None:
            data = self._plain(len(buffer))
        else:
            self._wait()
            data = os.read(self._stream.fileno(), len(buffer))
            if not data:
                self._check_exit(self._process)
        self._ended = not data
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Stop the command, and whatever it started."""
        if not self.closed:
            self.end()
            # A command whose output is left unread may well complain.
            with contextlib.suppress(OSError):
                self._stream.close()
            super().close()

    def ask(self) -> None:
        """Ask the command to stop."""
        if self._process is not None and self._process.returncode is None:
            _send(self._process, signal.SIGTERM)

    def end(self) -> None:
        """Stop the command, and all that it started; from any thread, each of which waits until that is done."""
        with self._ending:
            process, is_over, self._is_over = self._process, self._is_over, True
            if process is None or is_over:
                return
            self.ask()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            # What it left in the background too: until now nobody else can have its number.
            _send(process, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)

    def _plain(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise FetchError(error.strerror or str(error) or type(error).__name__) from None

    def _wait(self) -> None:
        """Until there is something to read, or the end."""
        poll = select.poll()
        poll.register(self._stream.fileno(), select.POLLIN)
        self._until(lambda seconds: bool(poll.poll(seconds * 1000)))

    def _check_exit(self, process: subprocess.Popen[bytes]) -> None:
        def has_ended(seconds: float) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            return process.returncode is not None

        self._until(has_ended)
        self.end()
        if process.returncode not in (0, _SIGPIPE):
            raise FetchError(f"the command that fetches it ended with exit {process.returncode}")

    def _until(self, happens: Callable[[float], bool]) -> None:
        deadline = time.monotonic() + self._patience_seconds
        while not happens(min(_TICK_SECONDS, max(0.0, deadline - time.monotonic()))):
            if self._stopped.is_set():
                raise _stopped()
            if time.monotonic() >= deadline:
                raise FetchError(f"nothing came for {self._patience_seconds:g} seconds (--source-timeout)")
        if self._stopped.is_set():
            raise _stopped()


def _stopped() -> FetchError:
    return FetchError("reading was stopped", may_pass=False)


def _opened(url: str) -> subprocess.Popen[bytes] | IO[bytes]:
    """A command of our own where webdataset would take one, since it leaves what that starts alone; else its stream."""
    from webdataset import utils
    from webdataset.gopen import gopen, gopen_curl, gopen_gsutil, gopen_pipe, gopen_schemes, rewrite_url

    try:
        url = rewrite_url(url)
        handler = gopen_schemes.get(urlsplit(url).scheme)
        if utils.enforce_security or handler not in (gopen_curl, gopen_gsutil, gopen_pipe):
            return cast(IO[bytes], gopen(url))
        if handler is gopen_pipe:
            return _command(url.removeprefix("pipe:"), shell=True)
        return _command([*_CURL, "--", url] if handler is gopen_curl else ["gsutil", "cat", url], shell=False)
    except FileNotFoundError as error:
        raise FetchError(f"{error.filename}, which is to fetch it, is not here", may_pass=False) from error
    except (ValueError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FetchError(" ".join(text.split()) or type(error).__name__, may_pass=False) from error


def _command(command: str | list[str], *, shell: bool) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C does not reach it, and all that it starts can be ended together.
    return subprocess.Popen(
        command, shell=shell, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
    )


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To a command and its children; of one that is in our own group, as webdataset's are, to it alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.returncode is None and os.getpgid(process.pid) != process.pid:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
