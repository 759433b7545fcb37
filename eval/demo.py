"""The demo: a server over this machine's Python documentation, and one question asked twice."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.demo_corpus import demo_index, is_built
from ragcache.errors import ModelError, RagCacheError
from ragcache.model.checkpoint import Checkpoint
from retrieval.errors import RetrievalError
from server.client import RagClient, ServerError
from server.run import bind

QUESTION = "How do I turn a dictionary into a JSON string?"
ANSWER_TOKENS = 24
READY_SECONDS = 120.0


def main() -> int:
    """Run the demo. With --once it ends after the table; otherwise the server runs until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m eval.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--once", action="store_true", help="stop after the table instead of serving on")
    options = parser.parse_args()
    try:
        bind("127.0.0.1", options.port).close()  # or its server would answer in place of ours
        with _model_prepared():
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


@contextlib.contextmanager
def _model_prepared() -> Iterator[None]:
    """Convert the default model in another process during the block, which leaves a core idle, if the index is new.

    A failure is not reported: the server converts what is not there, and says what is wrong.
    """
    if is_built():
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_convert_model, daemon=True)
    process.start()
    yield
    process.join()


def _convert_model() -> None:
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(ModelError, KeyboardInterrupt),
    ):
        Checkpoint.resolve("default")


def _url(port: int) -> str:
    return "" if port == 8000 else f" --url http://127.0.0.1:{port}"


def _ready(client: RagClient, server: subprocess.Popen[bytes]) -> bool:
    """Wait for the server; False if it ended instead."""
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
    """A table of both answers: time to first token, and the prompt's tokens by source."""
    usages = [answer["usage"] for answer in answers]
    rows = [
        ["", "asked first", "asked again"],
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
