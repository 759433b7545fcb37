"""On a GPU: attention, reuse, moves between device and host, and what happens where memory or the device is lost."""

import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from ragcache.engine.protocol import Finished, Token
from ragcache.engine.torch.attention import attend, attend_plainly, merge
from ragcache.engine.torch.engine import TorchEngine
from ragcache.engine.torch.kv import KVLayout
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.transfer import KVTransfer
from ragcache.engine.vllm.worker.paged_kv import Filling, PagedKV
from ragcache.errors import ModelError
from ragcache.model.checkpoint import Checkpoint
from tests.props.torch_runs import Run, job, prompt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch computes on (CUDA)")
GPU = torch.device("cuda")
CASES = [(1, 1, False), (1, 900, False), (20, 300, False), (130, 130, True)]  # new tokens, keys, causal


def tensors(heads: int, kv_heads: int, dim: int, new: int, keys: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator(GPU).manual_seed(0)
    shapes = (1, heads, new, dim), (1, kv_heads, keys, dim), (1, kv_heads, keys, dim)
    return tuple((2 * torch.randn(shape, generator=generator, device=GPU)).to(dtype) for shape in shapes)


def exactly(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The definition, in float64."""
    ratio = query.shape[1] // key.shape[1]
    key, value = (tensor.double().repeat_interleave(ratio, 1) for tensor in (key, value))
    scores = query.double() @ key.transpose(-1, -2) * scale
    if causal:
        scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool, device=GPU).triu_(1), -math.inf)
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


@pytest.mark.parametrize("function", [attend, attend_plainly])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 8), (4, 2, 16), (9, 3, 64), (8, 1, 40), (32, 8, 128)])
@pytest.mark.parametrize(("new", "keys", "causal"), CASES)
def test_attention_is_that_of_the_definition(function, dtype, heads, kv_heads, dim, new, keys, causal):
    query, key, value = tensors(heads, kv_heads, dim, new, keys, dtype)
    scale = dim**-0.5
    expected, expected_lse = exactly(query, key, value, causal=causal, scale=scale)
    bound = {"rtol": 1e-5, "atol": 4e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps}
    out, lse = function(query, key, value, causal=causal, scale=scale)
    torch.testing.assert_close(out.double(), expected, **bound)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-4)
    if keys > 2 and not causal:
        cuts = (slice(1), slice(1, keys // 2), slice(keys // 2, keys))  # views into larger memory, as spans are
        parts = [function(query, key[:, :, cut], value[:, :, cut], causal=False, scale=scale) for cut in cuts]
        torch.testing.assert_close(merge(parts).double(), expected, **bound)


@pytest.fixture(scope="module")
def single(llama) -> TorchModel:
    """The tiny model in float32 on the GPU."""
    return TorchModel(llama().to(GPU), "tiny")


@pytest.fixture(scope="module")
def half(tiny_checkpoint) -> TorchModel:
    """The tiny model as it is loaded where there is a GPU."""
    model = TorchModel.load(tiny_checkpoint)
    assert model.device.type == "cuda"
    assert model.layout.dtype in (torch.bfloat16, torch.float16)
    return model


@pytest.fixture
def limited() -> Iterator[None]:
    """After the test, this process may have all memory of the GPU again."""
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def leave(size: int) -> None:
    """Leaves this process about `size` bytes more of the GPU's memory than it has."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)


def test_together_behind_kv_from_the_host_they_say_what_transformers_says(engines, single, generate):
    engine = engines(single, prefill_chunk=64)
    transfer = KVTransfer(single.layout, single.device)
    documents = [prompt(size, 50 + size) for size in (30, 90, 1)]
    first = job(engine, prompt(9, 1), 12, missing=documents)
    spans = list(first.targets)
    whole = [token for document in documents for token in document]
    assert Run(engine, first).wait().tokens == generate(whole + prompt(9, 1), 12)
    with ThreadPoolExecutor(1, initializer=KVTransfer.initializer) as mover:
        back = [mover.submit(lambda span=span: transfer.adopt(transfer.to_host(span))).result() for span in spans]
    for mine, theirs in zip(back, spans, strict=True):
        assert torch.equal(mine.data, theirs.data)
    runs = [Run(engine, job(engine, prompt(9, n), 12, cached=(spans, back)[n % 2])) for n in range(8)]
    assert [run.wait().tokens for run in runs] == [generate(whole + prompt(9, n), 12) for n in range(8)]


def test_in_16_bits_reuse_differs_by_rounding_alone(engines, half):
    """The best logit less the second moves by less than what rounding each part's output once can do."""
    engine = engines(half, prefill_chunk=64)
    documents = [prompt(size, 50 + size) for size in (200, 90)]
    for seed in range(8):
        first = job(engine, prompt(9, seed), 1, missing=documents)
        spans = list(first.targets)
        computed = Run(engine, first).wait()
        reused = Run(engine, job(engine, prompt(9, seed), 1, cached=spans)).wait()
        (one,), (other,) = ([e for e in run.events if isinstance(e, Token)] for run in (computed, reused))
        assert abs(one.margin - other.margin) < 0.25
        assert one.id == other.id or max(one.margin, other.margin) < 0.25


@pytest.mark.parametrize("stored", [None, torch.float16, torch.float32])
def test_kv_is_copied_as_the_engine_leaves_it_and_arrives_whole(stored):
    """A mover starts while the writes are still queued, and its spans' memory was in use a moment ago."""
    layout = KVLayout(layers=8, kv_heads=4, head_dim=64, dtype=torch.bfloat16)
    transfer = KVTransfer(layout, GPU, stored)
    factor = torch.randn(4096, 4096, device=GPU)
    with ThreadPoolExecutor(2, initializer=KVTransfer.initializer) as movers:
        for number in range(20):
            for _ in range(4):
                factor @ factor  # what is queued from here on comes tens of milliseconds later
            span = layout.allocate(300, GPU)
            span.data.fill_(number)
            span.length = 300
            host = movers.submit(transfer.to_host, span).result(timeout=60)
            assert host.data.is_pinned()
            assert bool((host.data == number).all())
            del span
            arriving = movers.submit(transfer.to_device, host)
            noise = [torch.full(layout.shape(300), -1.0, dtype=layout.dtype, device=GPU) for _ in range(3)]
            assert bool((arriving.result(timeout=60).data == number).all())
            del noise


@pytest.mark.parametrize("heads_first", [False, True])
def test_blocks_come_back_bit_for_bit_and_each_layer_in_time(heads_first):
    shape = (200, 2, 8, 16, 64) if heads_first else (200, 2, 16, 8, 64)
    layers = {f"layer {n}": torch.randn(shape, device=GPU).bfloat16() for n in range(6)}
    if heads_first:
        layers = {name: layer.transpose(2, 3) for name, layer in layers.items()}
    paged = PagedKV(layers)
    blocks = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:64]
    there = blocks.to(GPU)
    before = [layer[there] for layer in layers.values()]
    host, copied = paged.gather(blocks.tolist())
    for layer in layers.values():
        layer[there] = 0.0
    copied()
    fillings = [Filling(host, 0, blocks[:40].tolist()), Filling(host, 40, blocks[40:].tolist())]
    paged.fill(fillings)
    for (name, layer), expected in zip(layers.items(), before, strict=True):
        paged.wait_for_layer(name)
        assert torch.equal(layer[there], expected)
    paged.filled()
    for layer in layers.values():
        layer[there] = 0.0
    with ThreadPoolExecutor(1) as reader:
        reader.submit(paged.fill_and_wait, fillings, paged.queued()).result(timeout=60)
    assert all(torch.equal(layer[there], expected) for layer, expected in zip(layers.values(), before, strict=True))


def test_a_load_comes_behind_the_step_under_way_on_the_engines_own_stream():
    """vLLM computes on a stream of its own, which the reader's thread does not see."""
    layers = {f"layer {n}": torch.zeros(64, 2, 16, 8, 64, dtype=torch.bfloat16, device=GPU) for n in range(4)}
    paged, stream = PagedKV(layers), torch.cuda.Stream()
    factor = torch.randn(4096, 4096, device=GPU)
    blocks, source = list(range(10)), paged.empty(10)
    source.data.random_()
    with ThreadPoolExecutor(1) as reader:
        for _ in range(5):
            with torch.cuda.stream(stream):
                for _ in range(20):
                    factor @ factor
                for layer in layers.values():
                    layer[:10].fill_(7.0)  # blocks of a request that has ended since
                queued = paged.queued()
            reader.submit(paged.fill_and_wait, [Filling(source, 0, blocks)], queued).result(timeout=60)
            torch.cuda.synchronize()
            got, copied = paged.gather(blocks)
            copied()
            assert torch.equal(got.data, source.data)


@pytest.mark.usefixtures("limited")
def test_where_the_gpu_is_full_jobs_give_way_or_fail_and_the_engine_goes_on(engines, llama):
    wide = TorchModel(llama(vocab_size=500, hidden_size=1024, intermediate_size=16384).to(GPU), "wide")
    engine = engines(wide, prefill_chunk=2048)
    jobs = [job(engine, prompt(2000, n), 4) for n in range(3)]
    expected = [Run(engine, job(engine, prompt(2000, n), 4)).wait().tokens for n in range(3)]
    leave(24 << 20)
    for run in [Run(engine, work) for work in jobs]:
        last = run.wait().events[-1]
        assert not isinstance(last, Finished)
    del jobs
    torch.cuda.set_per_process_memory_fraction(1.0)
    again = [Run(engine, job(engine, prompt(2000, n), 4)).wait().tokens for n in range(3)]
    assert again == expected
    assert engine.stats().alive


@pytest.mark.usefixtures("limited")
def test_weights_for_which_the_gpu_has_no_room_are_a_model_error(llama, tmp_path):
    llama(hidden_size=1024, intermediate_size=8192).save_pretrained(tmp_path / "wide")  # 112 MiB in 16 bits
    leave(0)
    with pytest.raises(ModelError, match="cannot load 'wide' onto cuda: CUDA out of memory"):
        TorchModel.load(Checkpoint.resolve(str(tmp_path / "wide")))


@pytest.mark.usefixtures("limited")
def test_memory_that_the_gpu_lacks_is_a_memory_error(half):
    engine = TorchEngine(half)
    try:
        leave(0)
        with pytest.raises(MemoryError, match="CUDA out of memory"):
            engine.allocate(1_000_000)
    finally:
        engine.close()


def test_the_engine_of_a_gpu_that_is_lost_takes_no_more_jobs(tiny_folder):
    """In a process of its own, for whose GPU nothing can be done after that."""
    code = """if True:
        import sys
        import torch
        from ragcache.engine.torch.engine import TorchEngine
        from ragcache.engine.torch.model import TorchModel
        from ragcache.errors import EngineError
        from ragcache.model.checkpoint import Checkpoint
        from tests.props.torch_runs import Run, job, prompt

        model = TorchModel.load(Checkpoint.resolve(sys.argv[1]))
        engine = TorchEngine(model)
        works = [job(engine, prompt(10, n), 4) for n in range(3)]
        print(type(Run(engine, works[0]).wait().events[-1]).__name__, model.lost())
        try:
            torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].tolist()
        except RuntimeError:
            print(type(Run(engine, works[1]).wait().events[-1]).__name__, model.lost())
        print(engine.stats().alive, engine.stats().restarts)
        for attempt in (lambda: engine.submit(works[2], print), lambda: engine.allocate(10_000_000)):
            try:
                attempt()
            except EngineError as error:
                print(str(error)[:60])
        """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines() == [
        "Finished False",
        "Failed True",
        "False 0",
        "the engine takes no more jobs, restart the server: the engine"[:60],
        "the device is lost, restart the server: CUDA error: device-s"[:60],
    ], done.stderr
