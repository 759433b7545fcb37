"""Draws follow the tempered, cut softmax, and are functions of seed, number and logits."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ragcache.engine.protocol import Sampling
from ragcache.engine.torch.sampler import Sampler, nucleus, uniform


def reference(logits: list[float], temperature: float, top_p: float) -> np.ndarray:
    """The distribution as the definition says it, token by token in order of rank."""
    scaled = [value / temperature for value in logits]
    raised = [np.exp(value - max(scaled)) for value in scaled]
    share = [value / sum(raised) for value in raised]
    kept, mass = [], 0.0
    for token in sorted(range(len(share)), key=lambda token: (-share[token], token)):
        kept.append(token)
        mass += share[token]
        if mass >= top_p:
            break
    return np.array([share[token] / mass if token in kept else 0.0 for token in range(len(share))])


def shares_of(logits: list[float], draws: int, **sampling: float) -> np.ndarray:
    sampler = Sampler(Sampling(seed=7, **sampling))
    row = torch.tensor(logits)
    counts = np.zeros(len(logits))
    for number in range(draws):
        counts[sampler.choose(row, number)[0]] += 1
    return counts / draws


LOGITS = [0.0, 1.0, 2.0, -20.0, 1.5, 0.25]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.6, 0.3])
def test_draws_follow_the_tempered_softmax_cut_at_top_p(temperature, top_p):
    draws = 6000
    expected = reference(LOGITS, temperature, top_p)
    got = shares_of(LOGITS, draws, temperature=temperature, top_p=top_p)
    assert (got[expected == 0] == 0).all()
    live = expected > 1e-3
    chi_square = draws * ((got - expected)[live] ** 2 / expected[live]).sum()
    assert chi_square < 25  # with five degrees of freedom, 99.98 % are below


def test_the_draw_is_the_inverse_of_the_cumulative_distribution():
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    bounds = np.cumsum(reference(logits.tolist(), 0.8, 0.7))
    sampler = Sampler(Sampling(0.8, seed=11, top_p=0.7))
    for number in range(50):
        assert sampler.choose(logits, number)[0] == int(np.argmax(bounds > uniform(11, number)))


@given(st.lists(st.sampled_from([0.0, 0.01, 0.2, 0.2, 0.5, 1.0]), min_size=1, max_size=30), st.floats(0.0, 1.0))
def test_the_nucleus_is_the_smallest_set_with_that_share(weights, top_p):
    array = np.array([*weights, 1.0])
    kept = nucleus(array, top_p)
    assert kept[array.argmax()]
    total, mass = array.sum(), array[kept].sum()
    assert mass >= top_p * total - 1e-9
    if kept.sum() > 1:
        assert mass - array[kept].min() < top_p * total + 1e-9
    assert array[kept].min() >= array[~kept].max(initial=0.0)
    edge = np.flatnonzero(array == array[kept].min())
    assert all(kept[a] >= kept[b] for a, b in pairwise(edge)), "of equals the smaller ids"


@pytest.mark.parametrize("top_p", [0.0, 1e-9, 0.4])
def test_the_best_is_always_in(top_p):
    assert shares_of(LOGITS, 50, temperature=1.0, top_p=top_p)[2] == 1.0


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-6])
def test_a_temperature_near_zero_takes_the_best(temperature):
    assert shares_of(LOGITS, 20, temperature=temperature)[2] == 1.0


def test_a_draw_depends_on_its_number_and_not_on_those_before():
    row = torch.zeros(500)
    straight = Sampler(Sampling(1.0, seed=5))
    whole = [straight.choose(row, number)[0] for number in range(40)]
    late = Sampler(Sampling(1.0, seed=5))
    assert [late.choose(row, number)[0] for number in range(25, 40)] == whole[25:]
    assert len(set(whole)) > 30


def test_equal_seeds_draw_alike_and_others_do_not():
    row = torch.zeros(500)

    def drawn(seed: int | None) -> tuple[int, ...]:
        sampler = Sampler(Sampling(1.0, seed=seed))
        return tuple(sampler.choose(row, number)[0] for number in range(10))

    assert drawn(1) == drawn(1)
    seeds = [0, 1, -1, 2**64 - 1, 2**64, None, None]
    assert len({drawn(seed) for seed in seeds}) == len(seeds)


def test_float_rounding_in_the_logits_does_not_change_the_draws():
    generator = torch.Generator().manual_seed(1)
    row = torch.randn(500, generator=generator)
    row[100:200] = 0.5  # ranks that change places with the least noise
    noisy = row + 1e-5 * torch.randn(500, generator=generator)
    sampler = Sampler(Sampling(1.0, seed=2, top_p=0.9))
    same = sum(sampler.choose(row, number)[0] == sampler.choose(noisy, number)[0] for number in range(500))
    assert same >= 495


def test_uniform_fills_the_unit_interval_evenly():
    values = np.array([uniform(9, number) for number in range(4000)])
    assert ((values >= 0) & (values < 1)).all()
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 50  # with 19 degrees of freedom, 99.98 % are below


def test_greedy_takes_the_best_and_tells_its_margin():
    assert Sampler(Sampling()).choose(torch.tensor([0.5, 3.0, 1.0]), 0) == (1, 2.0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(temperature):
    with pytest.raises(ValueError, match="not numbers"):
        Sampler(Sampling(temperature)).choose(torch.tensor([0.0, float("nan"), 1.0]), 0)
