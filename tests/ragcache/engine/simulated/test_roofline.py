"""Model shapes have the published numbers of weights, steps take what a hand calculation says."""

import dataclasses

import pytest

from ragcache.cost import PolynomialCost
from ragcache.engine.simulated.hardware import HARDWARE, Hardware
from ragcache.engine.simulated.roofline import Roofline
from ragcache.engine.simulated.step_cost import MeasuredCost
from ragcache.errors import ConfigError
from ragcache.model.shape import MODELS, ModelShape

MiB = 2**20
# round numbers to calculate with: all that is reached is 1e12 operations and 1e10 bytes a second
BOX = Hardware(
    "box",
    flops={"float16": 2e12},
    memory_bandwidth=2e10,
    memory=10**9,
    host_bandwidth=4e9,
    source="made up",
    compute_efficiency=0.5,
    memory_efficiency=0.5,
    link_efficiency=0.5,
    step_seconds=0.001,
)
# 3·100·200 for the MLP, 2·100·100 + 2·100·50 for attention: 90,000 a layer
TOY = ModelShape("toy", 10, 100, 4, 2, 25, 200, 1000, 4096)
PAIR = 4 * 10 * 100 / 1e12  # seconds to compute a query and key pair
KV = 2 * 10 * 2 * 25 * 2 / 1e10  # seconds to move a token's KV


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mistral-7b", 7_241_732_096),
        ("llama2-7b", 6_738_415_616),
        ("mixtral-8x7b", 46_702_792_704),
        ("llama2-70b", 68_976_648_192),
        ("llama-3.1-8b", 8_030_261_248),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_weights_are_as_published(name, weights):
    assert MODELS[name].weights == weights
    assert MODELS[name].weight_bytes == weights * (4 if name == "smollm2-135m" else 2)


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("mistral-7b", 0.125),
        ("llama2-7b", 0.5),
        ("mixtral-8x7b", 0.125),
        ("llama2-70b", 0.3125),
        ("llama-3.1-8b", 0.125),
        ("smollm2-135m", 46_080 / MiB),  # in float32
    ],
)
def test_kv_of_a_token(name, mebibytes):
    assert MODELS[name].kv_bytes_per_token == mebibytes * MiB


def test_other_dtypes_are_a_replacement():
    assert dataclasses.replace(MODELS["smollm2-135m"], dtype="float16").kv_bytes_per_token == 23_040


def test_the_weights_of_the_toy():
    assert TOY.active_weights == 900_000
    assert TOY.output_weights == 100_000
    assert TOY.weights == 900_000 + 2 * 100_000 + 21 * 100
    assert TOY.weights_read(1) == TOY.weights_read(1000) == 1_000_000


def test_of_the_experts_those_are_read_that_some_token_goes_to():
    shape = dataclasses.replace(TOY, experts=4, active_experts=2)
    rest = 10 * (30_000 + 100 * 4) + 100_000
    assert shape.active_weights == 10 * (30_000 + 400 + 2 * 60_000)
    # one token goes to 2 of 4, two to 3 on average, many to all
    assert shape.weights_read(1) == rest + 10 * 60_000 * 2
    assert shape.weights_read(2) == rest + 10 * 60_000 * 3
    assert shape.weights_read(1000) == pytest.approx(rest + 10 * 60_000 * 4)


def test_a_prefill_by_hand():
    # compute: 2·900,000·500 for the layers, 2·100,000 for one token's logits; reading 2 MB takes 0.0002 s
    linear = (900_000_000 + 200_000) / 1e12
    pairs = 500 * 300 + 500 * 501 / 2
    assert Roofline(BOX, TOY).step([(300, 500)], []) == pytest.approx(linear + pairs * PAIR + 0.001)


def test_a_short_chunk_behind_a_long_prefix_waits_for_memory():
    # one token: 2 MB of weights take longer than 2 MFLOP, 5,001 tokens of KV longer than as many pairs
    assert KV > PAIR
    expected = 2e6 / 1e10 + 5001 * KV + 0.001
    roofline = Roofline(BOX, TOY)
    assert roofline.step([(5000, 1)], []) == pytest.approx(expected)
    assert roofline.step([], [5000]) == roofline.decode(1, 5000) == pytest.approx(expected)


def test_a_batch_reads_the_weights_once_and_each_kv():
    roofline = Roofline(BOX, TOY)
    assert roofline.decode(8, 1000) == pytest.approx(2e6 / 1e10 + 8 * 1001 * KV + 0.001)
    mixed = roofline.step([(0, 400), (50, 112)], [1000, 2000])
    linear = (2 * 900_000 * 514 + 2 * 100_000 * 4) / 1e12
    attention = 400 * 401 / 2 * PAIR + (112 * 50 + 112 * 113 / 2) * PAIR + (1001 + 2001) * KV
    assert mixed == pytest.approx(linear + attention + 0.001)


def test_several_devices_share_the_work_and_exchange_what_they_have():
    two = dataclasses.replace(BOX, devices=2, peer_bandwidth=2e9, peer_seconds=1e-5)
    # twice a layer 500 tokens of 100 numbers of 2 bytes; of a ring of 2, each moves the size once
    exchange = 20 * (1e-5 + 100_000 / 1e9)
    linear = (900_000_000 + 200_000) / 2e12
    assert Roofline(two, TOY).step([(0, 500)], []) == pytest.approx(
        linear + 500 * 501 / 2 * PAIR / 2 + exchange + 0.001
    )
    assert two.host_rate == 2 * BOX.host_rate == 4e9


def test_a_prompt_alone_is_its_chunks_one_after_the_other():
    roofline = Roofline(BOX, TOY, prefill_chunk=200)
    steps = roofline.step([(30, 200)], []) + roofline.step([(230, 200)], []) + roofline.step([(430, 70)], [])
    assert roofline(30, 470) == pytest.approx(steps)
    assert roofline(30, 0) == roofline.step([], []) == 0.0


# 8 chunks of 512 tokens, all of them bound by computing, at 0.6 of the data sheet's peak
@pytest.mark.parametrize(
    ("hardware", "model", "seconds"),
    [
        # 2·6.476e9·4096 for the layers and 4.40e12 for attention are 5.745e13 operations; 8 steps of 2 ms
        ("a10g", "llama2-7b", 5.745e13 / 42e12 + 0.016),
        # 2·6.979e9·4096 and 4.40e12
        ("h100", "llama-3.1-8b", 6.158e13 / 593.4e12 + 0.016),
        # 2·68.45e9·4096 and 2.2e13 on two devices; 160 all-reduces a step, of 8 MiB at 160 GB/s and 10 µs each
        ("2xh800", "llama2-70b", 5.827e14 / 1186.8e12 + 0.016 + 8 * 160 * (1e-5 + 2**23 / 160e9)),
    ],
)
def test_a_prefill_of_4096_tokens_takes_what_the_published_sizes_say(hardware, model, seconds):
    assert Roofline(HARDWARE[hardware], MODELS[model])(0, 4096) == pytest.approx(seconds, rel=0.003)


# the weights but for the embedding, and the KV of 2,049 tokens, at 0.75 of the data sheet's bandwidth; a step of 2 ms
@pytest.mark.parametrize(
    ("hardware", "model", "seconds"),
    [
        ("a10g", "llama2-7b", (6.607e9 * 2 + 2049 * 2**19) / 450e9 + 0.002),
        ("h100", "llama-3.1-8b", (7.505e9 * 2 + 2049 * 2**17) / 2512.5e9 + 0.002),
        # and two all-reduces a layer of 16 KiB each
        ("2xh800", "llama2-70b", (68.714e9 * 2 + 2049 * 327_680) / 5025e9 + 0.002 + 160 * (1e-5 + 2**14 / 160e9)),
    ],
)
def test_a_decode_behind_2048_tokens_takes_what_the_published_sizes_say(hardware, model, seconds):
    assert Roofline(HARDWARE[hardware], MODELS[model]).decode(1, 2048) == pytest.approx(seconds, rel=0.003)


def test_this_cpu_is_about_as_fast_as_was_measured():
    """Against plain `transformers` on 2 cores, which took 2.96 and 5.4 s, and 40 ms a decode."""
    roofline = Roofline(HARDWARE["this-cpu"], MODELS["smollm2-135m"])
    assert roofline(0, 1024) == pytest.approx(2.96, rel=0.15)
    assert roofline(0, 2048) == pytest.approx(5.4, rel=0.15)
    assert roofline.decode(1, 2048) == pytest.approx(0.040, rel=0.05)
    # a short question behind a long prefix took 0.28 s: small products are slower than the rates say
    assert 0.5 * 0.28 < roofline(2048, 48) < 0.28


def test_fetching_is_cheaper_than_computing_on_every_machine_of_the_paper():
    for hardware, model in [("a10g", "mistral-7b"), ("a10g", "llama2-7b"), ("2xh800", "llama2-70b")]:
        roofline = Roofline(HARDWARE[hardware], MODELS[model])
        fetch = 2048 * MODELS[model].kv_bytes_per_token / HARDWARE[hardware].host_rate
        assert fetch < roofline(0, 2048) / 3


def test_what_the_memory_leaves_for_kv():
    assert Roofline(BOX, TOY).kv_capacity(0.5) == 500_000_000 - TOY.weight_bytes
    mistral = Roofline(HARDWARE["a10g"], MODELS["mistral-7b"]).kv_capacity()
    assert 7 * 2**30 < mistral < 9 * 2**30
    with pytest.raises(ConfigError, match=r"llama2-70b take 128\.5 GiB, and a10g has 21\.6 GiB"):
        Roofline(HARDWARE["a10g"], MODELS["llama2-70b"]).kv_capacity()


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="this-cpu has no figure for float16; it has float32"):
        Roofline(HARDWARE["this-cpu"], MODELS["mistral-7b"])
    with pytest.raises(ConfigError, match="prefill_chunk"):
        Roofline(BOX, TOY, prefill_chunk=0)
    with pytest.raises(ConfigError, match="2 devices need a peer_bandwidth"):
        dataclasses.replace(BOX, devices=2)
    with pytest.raises(ConfigError, match="token_seconds must be a number of 0 or more, not nan"):
        MeasuredCost(PolynomialCost(1, 0), 1.0, token_seconds=float("nan"))


@pytest.mark.parametrize(
    ("name", "devices", "teraflops", "gigabytes_a_second", "gibibytes", "link"),
    [("a10g", 1, 70, 600, 24, 32), ("h100", 1, 989, 3350, 80, 64), ("2xh800", 2, 989, 3350, 80, 64)],
)
def test_peaks_are_those_of_the_data_sheets(name, devices, teraflops, gigabytes_a_second, gibibytes, link):
    hardware = HARDWARE[name]
    assert hardware.flops["float16"] == hardware.flops["bfloat16"] == teraflops * 1e12
    assert hardware.memory_bandwidth == gigabytes_a_second * 1e9
    assert (hardware.devices, hardware.memory) == (devices, gibibytes * 2**30)
    assert hardware.host_bandwidth == link * 1e9


def test_every_machine_says_where_its_figures_are_from_and_reaches_no_more_than_its_peaks():
    for hardware in HARDWARE.values():
        assert len(hardware.source) > 20
        for share in (hardware.compute_efficiency, hardware.memory_efficiency, hardware.link_efficiency):
            assert 0 < share <= 1


def test_a_machine_cannot_be_changed_and_may_be_a_key():
    assert len(set(HARDWARE.values())) == len(HARDWARE) > 1
    with pytest.raises(TypeError):
        HARDWARE["a10g"].flops["float16"] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        HARDWARE["a10g"].memory = 1


def test_a_measured_step():
    cost = MeasuredCost(PolynomialCost(1000, 0), 0.1, sequence_seconds=0.01, token_seconds=1e-5)  # 1 ms a token
    assert cost.step([], [100, 300]) == pytest.approx(0.1 + 0.02 + 0.004)
    assert cost.step([(50, 20), (0, 5)], []) == pytest.approx(0.025)
    assert cost.step([(50, 20)], [100, 300]) == pytest.approx(0.02 + 0.02 + 0.004)
