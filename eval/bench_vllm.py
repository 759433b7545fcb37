"""The connector's figures: `python -m eval.bench_vllm --data DIR`, in the environment of `make setup-vllm`.

Plain vLLM and vLLM with the connector run side by side, each in a process of its own, with the same model in float32,
the same prompts and the same number of blocks. They are asked in turn, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.bench_busy import LIMITS, SETTLE_SECONDS, busy_processes
from eval.props.neighbours import neighbours
from eval.props.rag_stream import RagStream, StreamPrompt, unlimited_hits
from eval.props.vllm_child import BLOCK, Asked, VllmChild
from ragcache.console import streams
from ragcache.engine.cores import available_cores
from ragcache.errors import RagCacheError
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.template import PromptTemplate

TTFT_LIMIT = 0.25  # TTFT from the host, as a share of a cold prefill's
STREAM_LIMIT = 0.75  # mean TTFT on the skewed stream, as a share of plain vLLM's
OVERHEAD_LIMIT = 0.03  # most that the connector adds to TTFT with nothing cached, as a share
DEVICE_SHARE = 10  # the device holds a tenth of the tokens that the stream touches
PARTS = ("host", "exact", "stream", "overhead", "busy")
ANSWER = 9  # tokens of an answer whose decoding is timed


class Bench:
    """The measurements, each a method that returns its figures and whether they `met` their limit."""

    def __init__(self, options: argparse.Namespace) -> None:
        checkpoint = Checkpoint.resolve(options.model)
        self._model = checkpoint.location
        self._options = options
        self._stream = RagStream(options.data, self._template(checkpoint, options.doc_tokens))
        self._long = RagStream(options.data, self._template(checkpoint, options.long_tokens // 2))
        self._host = {"host_cache": options.host_cache, "policy": options.policy}

    def host(self) -> dict[str, Any]:
        """TTFT with the documents on the host, against plain vLLM with nothing cached."""
        documents = self._long.whole(2 * self._options.runs)
        prompts = [self._long.prompt(pair) for pair in zip(documents[::2], documents[1::2], strict=True)]
        cold, warm = [], []
        with self._pair(self._blocks_for(prompts)) as (plain, ours):
            for prompt in prompts:
                ours.ask(prompt.tokens, prompt.segments)
                plain.forget_device()
                ours.forget_device()
                cold.append(plain.ask(prompt.tokens, prompt.segments))
                warm.append(ours.ask(prompt.tokens, prompt.segments))
        ratios = [a.seconds / b.seconds for a, b in zip(warm, cold, strict=True)]
        return {
            "prompt_tokens": statistics.mean(len(prompt.tokens) for prompt in prompts),
            "cold_seconds": statistics.median(asked.seconds for asked in cold),
            "host_seconds": statistics.median(asked.seconds for asked in warm),
            "host_tokens": statistics.mean(asked.cached.get("host", 0) for asked in warm),
            "ratio": statistics.median(ratios),
            "limit": TTFT_LIMIT,
            "met": statistics.median(ratios) <= TTFT_LIMIT,
        }

    def exact(self) -> dict[str, Any]:
        """Token ids of greedy answers: plain vLLM with nothing cached, against documents from the host."""
        count = self._options.questions
        prompts = [self._stream.prompt([n // 2], asked=n) for n in range(count)]
        equal = from_host = 0
        with self._pair(self._blocks_for(prompts, self._options.tokens)) as (plain, ours):
            for prompt in prompts[::2]:
                ours.ask(prompt.tokens, prompt.segments)
            for prompt in prompts:
                plain.forget_device()
                ours.forget_device()
                expected = plain.ask(prompt.tokens, prompt.segments, self._options.tokens)
                answered = ours.ask(prompt.tokens, prompt.segments, self._options.tokens)
                equal += answered.ids == expected.ids
                from_host += answered.cached.get("host", 0) > 0
        return {"questions": count, "equal": equal, "from_host": from_host, "met": equal == from_host == count}

    def stream(self) -> dict[str, Any]:
        """Mean TTFT on a skewed stream, with a device for a tenth of the documents."""
        prompts = self._stream.skewed(self._options.requests, self._options.top_k, self._options.documents)
        documents = {prompt.tokens[prompt.segments[0] : sum(prompt.segments)] for prompt in prompts}
        blocks = max(sum(map(len, documents)) // DEVICE_SHARE // BLOCK, self._blocks_for(prompts)) + 1
        theirs: list[Asked] = []
        mine: list[Asked] = []
        with self._pair(blocks) as (plain, ours):
            for prompt in prompts:
                theirs.append(plain.ask(prompt.tokens, prompt.segments))
                mine.append(ours.ask(prompt.tokens, prompt.segments))
        plain_mean = statistics.mean(asked.seconds for asked in theirs)
        ours_mean = statistics.mean(asked.seconds for asked in mine)
        tokens = {tier: sum(asked.cached.get(tier, 0) for asked in mine) for tier in ("device", "host")}
        return {
            "requests": len(prompts),
            "lists_of_documents": len(documents),
            "prompt_tokens": sum(len(prompt.tokens) for prompt in prompts),
            "device_tokens": (blocks - 1) * BLOCK,
            "plain_hit_tokens": sum(asked.cached["device"] for asked in theirs),
            "our_hit_tokens": tokens,
            "unlimited_hit_tokens": unlimited_hits(prompts, BLOCK),
            "same_first_token": sum(a.ids == b.ids for a, b in zip(mine, theirs, strict=True)),
            "plain_mean_ttft": plain_mean,
            "our_mean_ttft": ours_mean,
            "ratio": ours_mean / plain_mean,
            "limit": STREAM_LIMIT,
            "met": ours_mean <= STREAM_LIMIT * plain_mean,
        }

    def overhead(self) -> dict[str, Any]:
        """TTFT with nothing cached. From prompt to prompt, the engine that goes first changes."""
        prompts = [self._stream.prompt([n]) for n in range(4 * self._options.runs + 2)]  # what differs is small
        ratios = []
        with self._pair(self._blocks_for(prompts)) as (plain, ours):
            for number, prompt in enumerate(prompts):
                pair = [plain, ours] if number % 2 else [ours, plain]
                for child in pair:
                    child.forget_all() if child is ours else child.forget_device()
                asked = {id(child): child.ask(prompt.tokens, prompt.segments) for child in pair}
                ratios.append(asked[id(ours)].seconds / asked[id(plain)].seconds)
        ratio = statistics.median(ratios[2:])  # the first ones warm up
        return {
            "prompts": len(ratios) - 2,
            "prompt_tokens": statistics.mean(len(prompt.tokens) for prompt in prompts),
            "ratio": ratio,
            "limit": 1 + OVERHEAD_LIMIT,
            "met": ratio <= 1 + OVERHEAD_LIMIT,
        }

    def busy(self) -> dict[str, Any]:
        """Prefills and decoded tokens beside busy processes, which it starts, as ratios to the quiet machine."""
        # as `ragcache serve` starts vLLM
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_CPU_ATTN_SPLIT_KV", "0")
        prompts = [self._stream.prompt([n]) for n in range(self._options.runs)]
        blocks = self._blocks_for(prompts, ANSWER)
        seconds: dict[str, tuple[float, float]] = {}
        loads = busy_processes(available_cores())
        with VllmChild(self._model, blocks, (blocks - 1) * BLOCK, self._host, eager=self._options.eager) as ours:
            self._prefill_and_decode(ours, prompts[:1])
            for load, count in {"quiet": 0, **loads}.items():
                with neighbours(count):
                    time.sleep(SETTLE_SECONDS)
                    seconds[load] = self._prefill_and_decode(ours, prompts)
        prefill, decode = seconds["quiet"]
        ratios = {load: (seconds[load][0] / prefill, seconds[load][1] / decode) for load in loads}
        return {
            "prompt_tokens": statistics.mean(len(prompt.tokens) for prompt in prompts),
            "prefill_seconds": prefill,
            "token_seconds": decode,
            "ratios": ratios,
            "limits": LIMITS,
            "met": all(max(ratios[load]) <= LIMITS[load] for load in loads),
        }

    def _prefill_and_decode(self, child: VllmChild, prompts: Sequence[StreamPrompt]) -> tuple[float, float]:
        """Median seconds of a prefill with nothing cached, and of a token after it."""
        prefills, tokens = [], []
        for prompt in prompts:
            child.forget_all()
            prefills.append(child.ask(prompt.tokens, prompt.segments).seconds)
            first, all_tokens = (child.ask(prompt.tokens, prompt.segments, count).seconds for count in (1, ANSWER))
            tokens.append((all_tokens - first) / (ANSWER - 1))
        return statistics.median(prefills), statistics.median(tokens)

    def _template(self, checkpoint: Checkpoint, tokens: int) -> PromptTemplate:
        return PromptTemplate.load(checkpoint, max_doc_tokens=tokens, max_question_tokens=512)

    def _blocks_for(self, prompts: Sequence[StreamPrompt], answer: int = 1) -> int:
        """Blocks that are enough for one of these requests at a time."""
        return max(len(prompt.tokens) + answer for prompt in prompts) // BLOCK + 2

    def _pair(self, blocks: int) -> _Pair:
        # a request may be no longer than the blocks hold
        return _Pair(self._model, blocks, (blocks - 1) * BLOCK, self._host, eager=self._options.eager)


class _Pair:
    """Plain vLLM, and vLLM with the connector. A context manager: it ends both."""

    def __init__(self, model: str, blocks: int, longest: int, settings: dict[str, Any], *, eager: bool) -> None:
        longest = min(longest, 8192)
        self._plain = VllmChild(model, blocks, longest, None, eager=eager)
        self._ours = VllmChild(model, blocks, longest, settings, eager=eager)

    def __enter__(self) -> tuple[VllmChild, VllmChild]:
        return self._plain, self._ours

    def __exit__(self, *error: Any) -> None:
        for child in (self._plain, self._ours):
            child.__exit__(None, None, None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with medrag/ and ragpulse/")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated (default: all)")
    parser.add_argument("--model", default="default", metavar="NAME", help="folder, GGUF file or Hugging Face id")
    parser.add_argument("--policy", default="pgdsf", metavar="NAME")
    parser.add_argument("--host-cache", default="4GiB", metavar="SIZE")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="prompts of the host part")
    parser.add_argument("--long-tokens", type=int, default=2000, metavar="N", help="document tokens of the host part")
    parser.add_argument("--questions", type=int, default=50, metavar="N", help="questions of the exact part")
    parser.add_argument("--tokens", type=int, default=12, metavar="N", help="tokens of their answers")
    parser.add_argument(
        "--documents", type=int, default=400, metavar="N", help="documents of the stream (0: one for each passage)"
    )
    parser.add_argument("--requests", type=int, default=400, metavar="N", help="requests of the stream")
    parser.add_argument("--top-k", type=int, default=1, metavar="N", help="documents of each")
    parser.add_argument("--doc-tokens", type=int, default=512, metavar="N", help="a longer document is cut to these")
    parser.add_argument("--eager", action="store_true", help="do not compile the models: starts faster, runs slower")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    figures: dict[str, Any] = {}
    try:
        bench = Bench(options)
        for part in options.part or PARTS:
            figures[part] = getattr(bench, part)()
            print(f"{part}: {json.dumps(figures[part])}", file=sys.stderr, flush=True)
    except RagCacheError as error:
        print(f"bench_vllm: {error}", file=sys.stderr)
        return 2
    figures["seconds"] = time.perf_counter() - begin
    print(json.dumps(figures, indent=1))
    return 0 if all(figures[part]["met"] for part in options.part or PARTS) else 1


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_vllm"))
