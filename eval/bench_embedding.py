"""Embedding in figures: texts and tokens a second, and how near its matrix products come to what torch reaches here."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ragcache.console import streams
from retrieval.corpus import read_corpus
from retrieval.embedder import DEFAULT_NAME, Embedder
from retrieval.errors import RetrievalError

PRODUCT_ROWS = 1024  # of the matrix product that is the yardstick; its other sides are the model's own
PRODUCTS = 25  # in a round; their median counts


def encoder_flops(lengths: Sequence[int], layers: int, dim: int, inner: int) -> int:
    """Floating-point operations in an encoder's matrix products for texts of these lengths in tokens.

    `dim` is the width of a layer and `inner` that of its feed-forward part. A product of [m, k] and [k, n] counts
    2 m k n. Padding, softmax, normalisation and activations do not count.
    """
    tokens, pairs = sum(lengths), sum(length * length for length in lengths)
    weights = 4 * dim * dim + 2 * dim * inner  # query, key, value and output; up and down
    return 2 * layers * (tokens * weights + 2 * pairs * dim)  # scores, and the sum of values by them


def product_rate(threads: int, dim: int, inner: int) -> float:
    """Floating-point operations a second of torch's product of [PRODUCT_ROWS, dim] and [dim, inner], the median."""
    left, right = torch.randn(PRODUCT_ROWS, dim), torch.randn(dim, inner)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = [_seconds(lambda: left @ right) for _ in range(PRODUCTS)]
    finally:
        torch.set_num_threads(before)
    return 2 * PRODUCT_ROWS * dim * inner / statistics.median(seconds)


def measure(embedder: Embedder, texts: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """The report: each round embeds all texts between two measurements of the yardstick; medians of the rounds."""
    config, lengths = embedder.config, embedder.token_counts(texts)
    sides = (config.hidden_size, config.intermediate_size)
    flops = encoder_flops(lengths, config.num_hidden_layers, *sides)
    embedder.encode(texts[:1])  # what the first call sets up is not measured
    rates, seconds = [product_rate(threads, *sides)], []
    for _ in range(rounds):
        seconds.append(_seconds(lambda: embedder.encode(texts)))
        rates.append(product_rate(threads, *sides))
    middle, peak = statistics.median(seconds), statistics.median(rates)
    return {
        "machine": f"{platform.machine()}, torch {torch.__version__}, {threads} threads",
        "texts": len(texts),
        "tokens": sum(lengths),
        "seconds": round(middle, 3),
        "texts_per_second": round(len(texts) / middle, 1),
        "tokens_per_second": round(sum(lengths) / middle),
        "gflops": round(flops / middle / 1e9, 1),
        "product_gflops": round(peak / 1e9, 1),
        "share_of_product": round(flops / middle / peak, 3),
    }


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _texts(options: argparse.Namespace, embedder: Embedder) -> list[str]:
    """Passages evenly spread over the corpus, or made-up texts of up to `max_tokens` words."""
    if options.corpus is not None:
        passages = [embedder.passage(document) for document in read_corpus(options.corpus)]
        chosen = np.unique(np.linspace(0, len(passages) - 1, options.count).astype(int))
        return [passages[row] for row in chosen]
    random = np.random.default_rng(0)
    return ["word " * int(words) for words in random.integers(8, embedder.max_tokens, options.count, endpoint=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; exit status 1 if the corpus or the model cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m eval.bench_embedding", description=__doc__)
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="embed its documents (default: made-up texts)")
    parser.add_argument("--embedder", default=DEFAULT_NAME, metavar="NAME", help="as for `ragcache index`")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="texts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="(default: torch's)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    if min(options.count, options.rounds, options.threads) < 1:
        parser.error("numbers must be at least 1")
    try:
        embedder = Embedder.load(options.embedder, options.threads)
        texts = _texts(options, embedder)
    except RetrievalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = measure(embedder, texts, options.rounds, options.threads)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{name:<18} {value}" for name, value in report.items()))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_embedding"))
