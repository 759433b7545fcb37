"""`ragcache query`: a question to a running server; the answer on stdout as it is written, the rest on stderr."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ragcache.console.escapes import one_line
from ragcache.errors import BadQuery
from ragcache.reuse.arrangement import ORDERS
from server.client import DEFAULT_URL, RagClient


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help="the question, in quotation marks")
    parser.add_argument("--url", default=DEFAULT_URL, help="address of the server (default: %(default)s)")
    parser.add_argument("--top-k", type=int, metavar="N", help="documents to answer from (default: the server's)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer in tokens (default: the server's)")
    parser.add_argument("--order", choices=ORDERS, help="order of the documents in the prompt (default: the server's)")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0, the default, always takes the most probable token"
    )


def run(options: argparse.Namespace) -> int:
    """Prints the sources as soon as they are known, the answer piece by piece, and its figures.

    Raises ServerError if the server cannot be reached or refuses the question, BadQuery if its bytes are no text.
    """
    if any("\ud800" <= character <= "\udfff" for character in options.question):  # Python's spelling of such bytes
        encoding = sys.getfilesystemencoding()
        raise BadQuery(f"the question is not in {encoding}, this terminal's encoding", field="question")
    asked = {name: getattr(options, name) for name in ("top_k", "max_tokens", "temperature", "order")}
    with RagClient(options.url) as client:
        for event, data in client.stream(options.question, **asked):
            if event == "documents":
                print(f"from:   {_titles(data)}\n", file=sys.stderr, flush=True)
            elif event == "delta":
                print(data["text"], end="", flush=True)
            elif event == "done":
                print(flush=True)
                print(_figures(data), file=sys.stderr)
    return 0


def _figures(answer: dict[str, Any]) -> str:
    """The tokens and times of an answer, in two lines."""
    usage, timing = answer["usage"], answer["timing"]
    cached = sum(usage["cached_tokens"].values())
    return (
        f"\nprompt: {usage['prompt_tokens']} tokens, {cached} from the cache, {usage['computed_tokens']} computed\n"
        f"time:   {timing['ttft_ms']:.0f} ms to the first token, {timing['total_ms']:.0f} ms in all"
    )


def _titles(retrieved: dict[str, Any]) -> str:
    """The documents that an answer is drawn from, by title, source or id, nearest first."""
    named = (
        one_line(document["title"] or document.get("source") or document["id"]) + " (cut short)" * document["truncated"]
        for document in retrieved["documents"]
    )
    return ", ".join(dict.fromkeys(named))  # several passages of one document are named once
