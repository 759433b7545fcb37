"""The command line, `ragcache COMMAND`: a table of commands, each loaded by name when it is called."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from ragcache.cli.clash import take_own_packages
from ragcache.cli.termination import unwind_on_sigterm
from ragcache.console.escapes import one_line
from ragcache.console.log import safe_last_resort
from ragcache.console.streams import ReaderGone, run
from ragcache.errors import RagCacheError


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the list: its module, which has `add_options(parser)` and `run(options) -> int`, and its purpose."""

    module: str
    purpose: str


COMMANDS = {
    "corpus": Command("ragcache.cli.corpus", "collect documents into a corpus"),
    "index": Command("ragcache.cli.index", "build a vector index and a document store from a corpus"),
    "serve": Command("ragcache.cli.serve", "answer questions over HTTP"),
    "query": Command("ragcache.cli.query", "ask a running server a question"),
    "simulate": Command(
        "ragcache.cli.simulate", "replay a trace through the knowledge cache, to compare policies and cache sizes"
    ),
    "replay": Command(
        "ragcache.cli.replay",
        "send a workload's requests at their times: to a described machine in virtual time, to this machine, or to a "
        "running server",
    ),
    "profile": Command(
        "ragcache.cli.profile",
        "measure how long a prefill takes on this machine, for `serve` and `simulate --cost` to weigh by",
    ),
    "profile-search": Command(
        "ragcache.cli.profile_search",
        "record real searches stage by stage, for `replay --search` to repeat in virtual time",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. An error that the user can mend is one line on stderr, status 1.

    What it writes is safe for any terminal, and a reader that goes away, such as `head`, ends it without a word: see
    ragcache.console.streams.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run(functools.partial(_main, words), "ragcache")


def _main(words: Sequence[str]) -> int:
    if not words or words[0] not in COMMANDS:
        _exit_with_list(words)
    name = words[0]
    safe_last_resort()
    unwind_on_sigterm()
    try:
        take_own_packages()
        return _run(name, words[1:])
    except ReaderGone:
        raise
    except (RagCacheError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        return _fail(name, error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of the options of one command, whose module is imported for it."""
    command = COMMANDS[name]
    purpose = f"{command.purpose[0].upper()}{command.purpose[1:]}."
    parser = argparse.ArgumentParser(prog=f"ragcache {name}", description=purpose)
    importlib.import_module(command.module).add_options(parser)
    return parser


def _run(name: str, words: Sequence[str]) -> int:
    from retrieval.errors import RetrievalError  # not before the packages are known to be ours

    try:
        options = command_parser(name).parse_args(words)
        return int(importlib.import_module(COMMANDS[name].module).run(options))
    except RetrievalError as error:
        return _fail(name, error)


def _fail(name: str, error: Exception) -> int:
    said: object = error
    if isinstance(error, OSError) and error.strerror:  # without the system's number
        said = ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    print(one_line(f"ragcache {name}: {said}"), file=sys.stderr)
    return 1


def _exit_with_list(words: Sequence[str]) -> NoReturn:
    """Prints the help or the version, or names what is wrong with the command line."""
    from ragcache import __version__

    parser = argparse.ArgumentParser(
        prog="ragcache",
        description="A RAG service that keeps the KV of its documents in a knowledge tree.",
        epilog="`ragcache COMMAND --help` describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"ragcache {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.purpose)
    parser.parse_args(words)
    parser.error("the command comes first, then its options: ragcache COMMAND ...")


if __name__ == "__main__":
    sys.exit(main())
