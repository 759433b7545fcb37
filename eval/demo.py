"""The demo: a server over this machine's Python documentation, and one question asked twice."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

from eval.demo_corpus import demo_index
from ragcache.errors import RagCacheError
from retrieval.errors import RetrievalError
from server.client import RagClient, ServerError
from server.run import bind

QUESTION = "How do I turn a dictionary into a JSON string?"
ANSWER_TOKENS = 24
READY_SECONDS = 120.0


def main() -> int:
    """Runs the demo; with --once it ends after the table, otherwise the server goes on until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m eval.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--once", action="store_true", help="stop after the table instead of serving on")
    options = parser.parse_args()
    try:
        bind("127.0.0.1", options.port).close()  # or another server there would be asked in place of ours
        index = demo_index() / "faiss.idx"
    except (RagCacheError, RetrievalError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "ragcache", "serve", "--index", str(index), "--port", str(options.port)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server = subprocess.Popen(command)
    try:
        with RagClient(f"http://127.0.0.1:{options.port}") as client:
            if not _ready(client, server):
                return server.wait() or 1
            _ask_twice(client)
        if options.once:
            return 0
        print(f'\nStill serving. Ask it yourself:\n  .venv/bin/ragcache query "{QUESTION}"{_url(options.port)}\n')
        return server.wait()
    except ServerError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def _url(port: int) -> str:
    return "" if port == 8000 else f" --url http://127.0.0.1:{port}"


def _ready(client: RagClient, server: subprocess.Popen[bytes]) -> bool:
    """Waits for the server; False if it ended instead."""
    deadline = time.monotonic() + READY_SECONDS
    while server.poll() is None:
        try:
            client.get("/readyz")
            return True
        except ServerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    return False


def _ask_twice(client: RagClient) -> None:
    print(f"\nQuestion:  {QUESTION}")
    answers = [client.ask(QUESTION, max_tokens=ANSWER_TOKENS) for _ in range(2)]
    text, more = answers[0]["answer"].strip(), " …" if answers[0]["finish_reason"] == "length" else ""
    print(f"Documents: {', '.join(document['title'] for document in answers[0]['documents'])}")
    print(f"Answer:    {textwrap.indent(text, ' ' * 11).lstrip()}{more}\n")
    print(table(answers))


def table(answers: list[dict[str, Any]]) -> str:
    """Time to first token and the prompt's tokens by source; a column an answer."""
    first_row = ["", "asked first", "asked again"]
    usages = [answer["usage"] for answer in answers]
    rows = [
        first_row,
        ["time to first token", *(f"{answer['timing']['ttft_ms']:,.0f} ms" for answer in answers)],
        ["prompt tokens", *(f"{usage['prompt_tokens']:,}" for usage in usages)],
        ["  from the cache", *(f"{sum(usage['cached_tokens'].values()):,}" for usage in usages)],
        ["  computed", *(f"{usage['computed_tokens']:,}" for usage in usages)],
    ]
    lines = [f"  {row[0]:<22}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows]
    ratio = answers[0]["timing"]["ttft_ms"] / max(answers[1]["timing"]["ttft_ms"], 1e-3)
    return "\n".join([lines[0], "  " + "─" * 50, *lines[1:], f"\n  {ratio:.1f} times sooner"])


if __name__ == "__main__":
    sys.exit(main())
