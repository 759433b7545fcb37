"""Replay a workload on hardware that is only described, in virtual time: `python examples/replay_workload.py`"""

import argparse
import random
from pathlib import Path

import ragcache
from ragcache import Workload
from ragcache.replay.workload import TimedRequest


def made_up(requests: int) -> Workload:
    """Questions over two of 200 documents, whose popularity falls with their rank."""
    rng = random.Random(3)
    weights = [1 / (1 + rank) for rank in range(200)]
    drawn = [tuple((f"doc {d}", 1_500) for d in rng.choices(range(200), weights, k=2)) for _ in range(requests)]
    return Workload(tuple(TimedRequest(0.0, documents, question=40, output=60) for documents in drawn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", type=Path, help="JSON lines {t, path, sizes, question, output}; default: made up")
    parser.add_argument("--requests", type=int, default=200, help="of the made-up workload (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1.0, help="requests a second (default: %(default)s)")
    options = parser.parse_args()
    workload = made_up(options.requests) if options.workload is None else Workload.read(options.workload)
    workload = workload.with_rate(options.rate, seed=1)
    print(f"{'':24}{'TTFT p50':>12}{'p95':>10}{'documents found':>18}")
    for hardware in ("a10g", "h100"):
        for policy in ("none", "s3fifo"):
            report = ragcache.replay(workload, hardware=hardware, model="mistral-7b", policy=policy).as_dict()
            ttft, hit_ratio = report["ttft"], report["hits"]["document_ratio"]
            print(
                f"{hardware:<6} policy {policy:<11}{ttft['p50']:>10.3f} s{ttft['p95']:>8.3f} s{hit_ratio or 0:>18.1%}"
            )


if __name__ == "__main__":
    main()
