"""ARC, SIEVE, S3-FIFO and W-TinyLFU hit for hit as literal replays of their papers.

libCacheSim's own counts for ARC and SIEVE are in the golden test.
"""

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from ragcache.cost import ConstantCost
from ragcache.policy import POLICIES, FrequencySketch, WTinyLFU
from ragcache.simulate.simulation import Simulation
from ragcache.simulate.trace import Trace
from tests.ragcache.policy import naive_policies as naive
from tests.ragcache.policy.naive_policies import ExactHistogram, Request

SAMPLE = 500
REFERENCES: dict[str, Callable[[Sequence[Request], int], Iterator[bool]]] = {
    "arc": naive.arc,
    "sieve": naive.sieve,
    "s3fifo": naive.s3fifo,
    "wtinylfu": lambda requests, c: naive.wtinylfu(requests, c, ExactHistogram(SAMPLE)),
}


def skewed(seed: int, largest: int) -> list[Request]:
    """2,500 requests for 120 objects, whose popularity shifts half-way so that ghosts matter."""
    chance = random.Random(seed)
    sizes = {f"o{number}": chance.randint(1, largest) for number in range(120)}
    weights = [1 / (rank + 1) ** 0.8 for rank in range(120)]
    first = chance.choices(list(sizes), weights, k=1250)
    second = chance.choices(list(sizes), weights[60:] + weights[:60], k=1250)
    return [(name, sizes[name]) for name in first + second]


def replay(policy: str, requests: Sequence[Request], capacity: int) -> list[bool]:
    trace = Trace()
    for request in requests:
        trace.add([request])
    bits: list[int] = []
    Simulation(trace, ConstantCost()).run(policy, capacity, on_request=bits.append)
    return [bool(bit) for bit in bits]


@pytest.mark.parametrize("policy", REFERENCES)
@pytest.mark.parametrize("largest", [1, 40])
@pytest.mark.parametrize("share", [0.01, 0.03, 0.1, 0.3, 0.6])
def test_hit_for_hit_as_the_paper_says(monkeypatch, policy, largest, share):
    monkeypatch.setitem(POLICIES, "wtinylfu", lambda capacity: WTinyLFU(capacity, ExactHistogram(SAMPLE)))
    for seed in range(3):
        requests = skewed(seed, largest)
        capacity = max(2, int(share * sum(dict(requests).values())))
        expected = list(REFERENCES[policy](requests, capacity))
        hits = replay(policy, requests, capacity)
        wrong = [step for step, bits in enumerate(zip(hits, expected, strict=True)) if bits[0] != bits[1]]
        assert wrong == [], f"seed {seed}, capacity {capacity}: {len(wrong)} differ"
        assert 0 < sum(hits) < len(hits)


def test_the_sketch_never_counts_too_little_and_ages():
    chance = random.Random(1)
    sketch, true = FrequencySketch(64), dict.fromkeys(range(200), 0)
    for _ in range(600):  # less than the sample of 640, at which it ages
        key = min(chance.randrange(200), chance.randrange(200), chance.randrange(200))
        sketch.add(key)
        true[key] += 1
    assert all(sketch.count(key) >= min(count, 15) for key, count in true.items())
    assert sum(sketch.count(key) == min(count, 15) for key, count in true.items()) > 20
    before = {key: sketch.count(key) for key in true}
    sketch.grow(200)
    assert {key: sketch.count(key) for key in true} == before
    sketch = FrequencySketch(64)
    for _ in range(12):
        sketch.add(1)
    for _ in range(640 - 12):
        sketch.add(2)
    assert (sketch.count(1), sketch.count(2)) == (6, 7)  # 12 and, at most, 15, halved
