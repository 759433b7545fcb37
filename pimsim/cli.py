"""The command `pimsim`: one module a command, each of which adds its parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from pimsim.commands import attention, dram, pareto, plot, reproduce, run, search, sensitivity, sweep, validate
from pimsim.errors import PimsimError
from pimsim.result import version

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

    Returns 0, or 1 if a check failed, 2 after one line about what cannot be simulated, 130 if it was interrupted.
    """
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except PimsimError as error:
        print(f"pimsim: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; the interpreter would complain when it flushes
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
