"""The command `pimsim`: one module a command, each of which adds its parser."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from pimsim.commands import attention, dram, pareto, plot, reproduce, run, search, sensitivity, sweep, validate
from pimsim.errors import PimsimError
from pimsim.result import version

READER_GONE = 141  # as of a program that SIGPIPE ended: 128 + 13
# names that files give things, in messages: control characters and what turns the direction of writing
_OBEYED = (*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SPELLED = {code: chr(code).encode("unicode_escape").decode() for code in _OBEYED}
_SPELLED_IN_TEXT = {code: spelled for code, spelled in _SPELLED.items() if chr(code) not in "\n\t"}

# each has add_parser(commands), which sets `run`: what takes the options and returns the exit status
SWEEPS: tuple[ModuleType, ...] = (sweep, pareto, plot, sensitivity)
COMMANDS: tuple[ModuleType, ...] = (dram, attention, search, run, reproduce, *SWEEPS, validate)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    whole = argparse.ArgumentParser(prog="pimsim", description="Simulates memory that computes: HBM-PIM and DIMM-PIM.")
    whole.add_argument("--version", action="version", version=f"pimsim {version()}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    for command in commands.choices.values():
        text = (command.description or "").partition(": ")[2] or command.description or ""
        command.description = text[:1].upper() + text[1:]  # a module's docstring begins with what it is
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, with `arguments` or those of the process.

    Returns 0, or 1 if a check failed, 2 after one line about what cannot be simulated, 130 if it was interrupted, and
    READER_GONE, without a word, if the reader of what it prints has gone, as `head` does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a test or the parent has put something else, or nothing
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks is spelled
    with contextlib.ExitStack() as redirected:
        if sys.stderr is None:  # the parent has closed it: print would take None for stdout
            nowhere = redirected.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            redirected.enter_context(contextlib.redirect_stderr(nowhere))
        if sys.stdout is not None:
            redirected.enter_context(contextlib.redirect_stdout(_Spelled(sys.stdout)))
        return _main(arguments)


class _Spelled:
    """A stream that spells control characters in what is written to it: files name what tables list."""

    def __init__(self, raw: TextIO) -> None:
        self._raw = raw

    def write(self, text: str) -> int:
        self._raw.write(text.translate(_SPELLED_IN_TEXT))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        try:
            options = parser().parse_args(arguments)
            status: int = options.run(options)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except PimsimError as error:
        print("pimsim:", str(error).translate(_SPELLED), file=sys.stderr)
        return 2
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # the interpreter would write the rest when it ends, and complain
        os.close(nowhere)
        return READER_GONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
