"""Streams: stdout and stderr of a command, for any encoding, any terminal, and readers that go away.

All that is written has its control characters spelled. Characters that the encoding lacks are spelled, too. Progress
bars, which redraw their line, become a line from time to time where no terminal shows them.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ragcache.console.escapes import escaped, one_line

READER_GONE = 141  # exit status, as of a program that SIGPIPE ended: 128 + 13
PROGRESS_SECONDS = 10.0  # between two lines of a progress bar in a log

_MOVES_UP = re.compile(r"\n*(\x1b\[A)+")  # tqdm, between bars below one another
_METER = re.compile(r"\|[^|]*\|")  # the drawn part of a bar


class ReaderGone(BrokenPipeError):
    """Whoever read what this process writes has closed the pipe, as `head` does."""


class SafeStream:
    """A text stream that writes to `raw` and behaves like it otherwise.

    With `redraws`, text that begins with a carriage return is a progress bar. Write such bars to stderr alone: there,
    what documents and models wrote comes in whole lines, by `one_line`. `to_line` makes what is written of each line
    that is not a bar's: a log has its own form. A line that is begun when `to_line` changes ends there. `clock` returns
    seconds.
    """

    def __init__(self, raw: TextIO, *, redraws: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.raw = raw
        self.reader_gone = False
        self.failure: OSError | None = None  # the first of what could not be written, though a caller swallowed it
        self._redraws = redraws
        self._clock = clock
        self._to_line: Callable[[str], str] | None = None
        self._begun = ""  # of a line, where `to_line` waits for its end
        self._amid_line = False  # the next "\n" is its end, and not a bar's
        self._bar: str | None = None  # its latest state, unless that has been written
        self._next_bar = 0.0

    @property
    def to_line(self) -> Callable[[str], str] | None:
        return self._to_line

    @to_line.setter
    def to_line(self, to_line: Callable[[str], str] | None) -> None:
        if self._amid_line:
            self._write_text("\n")
        self._to_line = to_line

    def write(self, text: str) -> int:
        """Writes all of it; returns its length. ReaderGone if the pipe is closed, OSError as the file has it."""
        if self._redraws and text.startswith("\r"):
            self._redraw(text)
        elif self._redraws and _MOVES_UP.fullmatch(text):
            if self._draws():
                self._put(text)
        elif text == "\n" and self._bar is not None and not self._amid_line:  # the bar's end
            self._write_bar()
        else:
            self._write_text(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hands over what is buffered. ReaderGone if the pipe is closed."""
        with self._watched():
            self.raw.flush()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def _write_text(self, text: str) -> None:
        if text:
            self._amid_line = not text.endswith("\n")
        if self.to_line is None:
            self._put(escaped(text))
            return
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._put(self.to_line(line) + "\n")

    def _draws(self) -> bool:
        """Whether a bar may be drawn: on a terminal, unless it shows a log that has a form of its own."""
        return self._to_line is None and self.isatty()

    def _redraw(self, text: str) -> None:
        bar = text.strip("\r\n ")
        if self._draws():
            tail = "\r" if text.endswith("\r") and len(text) > 1 else ""
            self._put("\r" + escaped(text.strip("\r")) + tail)
            return
        self._bar = one_line(_METER.sub(" ", bar)) or None  # a bar is cleared by blanks
        if self._bar and not self._amid_line and self._clock() >= self._next_bar:
            self._write_bar()

    def _write_bar(self) -> None:
        line, self._bar = self._bar, None
        if line:
            self._next_bar = self._clock() + PROGRESS_SECONDS
            self._write_text(f"{line}\n")

    def _put(self, text: str) -> None:
        encoding = getattr(self.raw, "encoding", None) or "utf-8"
        with self._watched():
            self.raw.write(text.encode(encoding, "backslashreplace").decode(encoding))

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            self.reader_gone = True
            raise ReaderGone(*error.args) from error
        except OSError as error:
            self.failure = self.failure or error
            raise


def run(command: Callable[[], int], name: str) -> int:
    """Calls a command with safe stdout and stderr; returns its exit status, or raises the SystemExit that it raised.

    The status is READER_GONE, without a word, if the reader of either has gone, and 1 after one line that begins with
    `name` if what was written could not be handed over, as to a full disk. The streams before are back then.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        sys.stdout = out = SafeStream(_open(before[0], opened))
        sys.stderr = errors = SafeStream(_open(before[1], opened), redraws=True)
        opened.callback(_restore, before)
        return _run(command, name, out, errors)


def _open(stream: TextIO | None, opened: contextlib.ExitStack) -> TextIO:
    """The stream, or a way to nowhere for one that the parent has closed: print takes `None` for stdout, and the next
    file that is opened takes the place of stderr, into which libraries write without asking."""
    if stream is not None:
        return stream
    return opened.enter_context(Path(os.devnull).open("w", encoding="utf-8"))


def _restore(streams: tuple[TextIO, TextIO]) -> None:
    sys.stdout, sys.stderr = streams


def _run(command: Callable[[], int], name: str, out: SafeStream, errors: SafeStream) -> int:
    try:
        try:
            status = command()
        except SystemExit:  # argparse's, and that of SIGTERM
            if unwritten := _flushed(0, out, errors, name):
                raise SystemExit(unwritten) from None
            raise
        return _flushed(status, out, errors, name)
    except ReaderGone:
        return READER_GONE
    finally:
        for stream in (out, errors):
            _give_up_rest(stream)


def _flushed(status: int, out: SafeStream, errors: SafeStream, name: str) -> int:
    """The exit status once all is written. Raises ReaderGone."""
    with contextlib.suppress(OSError):
        out.flush()
    if out.reader_gone:
        raise ReaderGone
    if out.failure is not None and not status:  # argparse swallows it where nothing is buffered
        errors.write(f"{name}: cannot write to stdout: {out.failure.strerror or out.failure}\n")
        return 1
    return status  # whatever became of the last lines of a log


def _give_up_rest(stream: SafeStream) -> None:
    """Lets what cannot be written vanish: the interpreter would try again when it ends, and complain."""
    try:
        stream.raw.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a stream of a test has no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.raw.fileno())
            os.close(nowhere)
    except ValueError:  # closed
        pass
