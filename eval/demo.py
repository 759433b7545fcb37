"""The demo: a server over this machine's Python documentation, and one question asked twice."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.demo_corpus import demo_index, is_built
from ragcache.console import streams
from ragcache.errors import RagCacheError
from retrieval.errors import RetrievalError
from server.client import RagClient, ServerError
from server.run import bind

QUESTION = "How do I turn a dictionary into a JSON string?"
ANSWER_TOKENS = 24
READY_SECONDS = 120.0
CONVERSION = "from ragcache.model.checkpoint import Checkpoint; Checkpoint.resolve('default')"


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
    except KeyboardInterrupt:
        print("demo: interrupted; what was finished is kept for the next time", file=sys.stderr)
        return 130
    return _serve(index, options.port, options.once)


def _serve(index: Path, port: int, once: bool) -> int:
    """Start the server and ask it; returns the exit status, after the answers if `once`, else when the server ends."""
    command = [sys.executable, "-m", "ragcache", "serve", "--index", str(index), "--port", str(port)]
    command += ["--log-level", "warning"]  # lines of requests would stand among the answers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server = subprocess.Popen(command)
    try:
        with RagClient(f"http://127.0.0.1:{port}") as client:
            if not _ready(client, server):
                return server.wait() or 1
            _ask_twice(client)
        if once:
            return 0
        print(f'\nStill serving. Ask it yourself:\n  .venv/bin/ragcache query "{QUESTION}"{_url(port)}\n', flush=True)
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
    """Convert the default model in another process during the block, unless the index was built before.

    Building the index leaves a core idle for some time. A failure is not reported here: the server tries again, and
    says what is wrong.
    """
    if is_built():
        yield
        return
    silent = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-c", CONVERSION], stdout=silent, stderr=silent, start_new_session=True)
    try:
        yield
        process.wait()
    finally:
        process.send_signal(signal.SIGINT)  # does nothing if it has ended, else lets it remove what is half done
        process.wait()


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
    sys.exit(streams.run(main, "eval.demo"))
