"""`ragcache query`: a question to a running server; the answer on stdout as it is written, its figures on stderr."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from server.client import DEFAULT_URL, RagClient


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help="the question, in quotation marks")
    parser.add_argument("--url", default=DEFAULT_URL, help="address of the server (default: %(default)s)")
    parser.add_argument("--top-k", type=int, metavar="N", help="documents to answer from (default: the server's)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer in tokens (default: the server's)")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0, the default, always takes the most probable token"
    )


def run(options: argparse.Namespace) -> int:
    """Prints the answer piece by piece. Raises ServerError if the server cannot be reached or refuses the question."""
    asked = {"top_k": options.top_k, "max_tokens": options.max_tokens, "temperature": options.temperature}
    with RagClient(options.url) as client:
        for event, data in client.stream(options.question, **asked):
            if event == "delta":
                print(data["text"], end="", flush=True)
            elif event == "done":
                print(flush=True)
                print(_figures(data), file=sys.stderr)
    return 0


def _figures(answer: dict[str, Any]) -> str:
    """The documents, tokens and times of an answer, in three lines."""
    usage, timing = answer["usage"], answer["timing"]
    cached = sum(usage["cached_tokens"].values())
    named = (
        (document["title"] or document.get("source") or document["id"]) + (" (cut short)" * document["truncated"])
        for document in answer["documents"]
    )
    titles = ", ".join(dict.fromkeys(named))  # several passages of one document are named once
    return (
        f"\nfrom:   {titles}\n"
        f"prompt: {usage['prompt_tokens']} tokens, {cached} from the cache, {usage['computed_tokens']} computed\n"
        f"time:   {timing['ttft_ms']:.0f} ms to the first token, {timing['total_ms']:.0f} ms in all"
    )
