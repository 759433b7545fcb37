"""KV comes back from host memory and from bytes as it was, or is refused; and the thread that moves it stays alone."""

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import torch

from ragcache.engine.torch import transfer as transfer_module
from ragcache.engine.torch.kv import KVLayout, KVSpan
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.transfer import KVTransfer, kv_fingerprint
from ragcache.errors import RagCacheError, TransferError

CPU = torch.device("cpu")
LAYOUT = KVLayout(layers=3, kv_heads=2, head_dim=16, dtype=torch.float32)
FLOAT16 = KVTransfer(LAYOUT, CPU, torch.float16)


def span_of(tokens: int, scale: float = 3.0, layout: KVLayout = LAYOUT) -> KVSpan:
    """A full span of random values, written as the engine writes."""
    span = layout.allocate(tokens, CPU)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(tokens)
        span.data.copy_(torch.randn(span.data.shape, generator=generator) * scale)
    span.length = tokens
    return span


def bits(span: KVSpan) -> bytes:
    return span.data.view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tokens", [1, 7, 250])
@pytest.mark.parametrize("way_back", [KVTransfer.to_device, KVTransfer.adopt])
def test_in_the_devices_dtype_every_bit_comes_back(dtype, tokens, way_back):
    layout = KVLayout(layers=3, kv_heads=2, head_dim=16, dtype=dtype)
    transfer = KVTransfer(layout, CPU)
    span = span_of(tokens, layout=layout)
    span.data[0, 0, 0, 0, :4] = torch.tensor([math.nan, math.inf, -math.inf, -0.0])  # even these
    before = bits(span)
    host = transfer.to_host(span)
    assert (host.tokens, host.nbytes, host.data.dtype) == (tokens, len(before), dtype)
    assert host.nbytes == tokens * transfer.stored_bytes_per_token
    back = way_back(transfer, host)
    assert (back.length, back.capacity, back.data.dtype) == (tokens, tokens, dtype)
    assert bits(back) == bits(span) == before


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_in_a_narrower_dtype_values_are_rounded_once(stored):
    transfer = KVTransfer(LAYOUT, CPU, stored)
    span = span_of(300)
    host = transfer.to_host(span)
    assert host.nbytes * 2 == span.data.nbytes
    back = transfer.to_device(host)
    assert back.data.dtype == torch.float32
    assert (back.data - span.data).abs().max() <= span.data.abs().max() * torch.finfo(stored).eps / 2
    assert torch.equal(back.data, span.data.to(stored).float())
    assert torch.equal(transfer.adopt(host).data, back.data)
    again = transfer.to_device(transfer.to_host(back))  # what was rounded once is not rounded again
    assert torch.equal(again.data, back.data)


def test_in_a_wider_dtype_every_value_comes_back():
    layout = KVLayout(layers=3, kv_heads=2, head_dim=16, dtype=torch.float16)
    transfer = KVTransfer(layout, CPU, torch.float32)
    span = span_of(20, layout=layout)
    span.data[0, 0, 0, 0, 0] = math.inf  # as the device has it: nothing became infinite on the way
    assert bits(transfer.to_device(transfer.to_host(span))) == bits(span)


@pytest.mark.parametrize("value", [1e5, -1e5, 65520.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("move", [KVTransfer.to_host, KVTransfer.payload])
def test_what_float16_cannot_hold_is_refused_wherever_it_lies(value, move, monkeypatch):
    monkeypatch.setattr(transfer_module, "_CHUNK", 1000)  # so that there are several, the last one short
    span = span_of(53)
    for index in (0, 999, 1000, span.data.numel() - 1):
        spoiled = span_of(53)
        spoiled.data.view(-1)[index] = value
        with pytest.raises(TransferError, match=r"float16 cannot hold .*65504.* store it as float32") as caught:
            move(FLOAT16, spoiled)
        assert caught.value.reason == "overflow"
    move(FLOAT16, span)


def test_the_largest_of_float16_is_not_refused():
    span = span_of(9)
    span.data[1, 1, 1, 8, 14:] = torch.tensor([65504.0, -65519.0])
    assert FLOAT16.to_host(span).data[1, 1, 1, 8, 14:].tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize("move", [KVTransfer.to_host, KVTransfer.payload])
@pytest.mark.parametrize("stored", [None, torch.float16])
def test_a_span_that_is_not_full_is_refused(move, stored):
    span = span_of(10)
    span.length = 9
    with pytest.raises(ValueError, match="has to be full to be moved; this one has room for 1 more"):
        move(KVTransfer(LAYOUT, CPU, stored), span)


def test_copies_share_no_memory():
    transfer = KVTransfer(LAYOUT, CPU)
    span = span_of(10)
    before = bits(span)
    host = transfer.to_host(span)
    back = transfer.to_device(host)
    span.data.zero_()
    host.data.zero_()
    assert bits(back) == before


def test_adopting_copies_nothing_on_the_cpu():
    transfer = KVTransfer(LAYOUT, CPU)
    host = transfer.to_host(span_of(10))
    assert transfer.adopt(host).data.data_ptr() == host.data.data_ptr()
    narrow = FLOAT16.to_host(span_of(10))
    assert FLOAT16.adopt(narrow).data.data_ptr() != narrow.data.data_ptr()


@pytest.mark.parametrize("stored", [None, torch.float16])
def test_a_record_is_written_and_read_as_bytes(stored):
    transfer = KVTransfer(LAYOUT, CPU, stored)
    span = span_of(21)
    payload = transfer.payload(span)
    host = transfer.to_host(span)
    assert bytes(payload) == bytes(transfer.payload_of_host(host)) == bytes(host.buffer)
    into = transfer.empty_host(21)
    buffer = into.buffer
    assert (buffer.format, buffer.ndim, buffer.readonly, buffer.contiguous) == ("B", 1, False, True)
    assert len(buffer) == into.nbytes == 21 * transfer.stored_bytes_per_token
    buffer[:100] = payload[:100]
    buffer[100:] = payload[100:]
    assert torch.equal(transfer.adopt(into).data, transfer.to_device(host).data)


def test_a_payload_in_the_devices_dtype_is_the_span_itself():
    span = span_of(8)
    payload = KVTransfer(LAYOUT, CPU).payload(span)
    span.data.zero_()
    assert bytes(payload) == bytes(span.data.nbytes)


def test_bytes_outlive_what_they_are_of():
    transfer = KVTransfer(LAYOUT, CPU)
    span = span_of(30)
    before = bits(span)
    payload, buffer = transfer.payload(span), transfer.to_host(span).buffer
    del span
    assert bytes(payload) == bytes(buffer) == before


def test_dropped_host_memory_leaves_the_process():
    process = psutil.Process()
    span = span_of(5000)
    before = process.memory_info().rss
    held = [KVTransfer(LAYOUT, CPU).to_host(span) for _ in range(40)]
    size = 40 * span.data.nbytes
    assert process.memory_info().rss - before > 0.9 * size
    del held
    assert process.memory_info().rss - before < 0.1 * size


@pytest.mark.parametrize("move", [KVTransfer.to_host, KVTransfer.to_device])
def test_exhausted_memory_is_a_reason(move, monkeypatch):
    def exhausted(*_: Any, **__: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    transfer = KVTransfer(LAYOUT, CPU)
    thing = span_of(5) if move is KVTransfer.to_host else transfer.to_host(span_of(5))
    monkeypatch.setattr("ragcache.engine.torch.kv.mmap.mmap", exhausted)
    with pytest.raises(TransferError, match=r"no memory to move KV.*Cannot allocate") as caught:
        move(transfer, thing)
    assert caught.value.reason == "memory"
    assert isinstance(caught.value, RagCacheError)


def test_more_memory_than_there_is_addresses_for():
    with pytest.raises(TransferError) as caught:
        FLOAT16.empty_host(10**12)
    assert caught.value.reason == "memory"


def test_torchs_own_words_for_exhaustion_are_understood_and_others_left_alone(monkeypatch):
    def fails(message: str) -> None:
        def raises(*_: Any) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(transfer_module, "on_pages", raises)

    for message in ("DefaultCPUAllocator: can't allocate memory: you tried", "CUDA error: out of memory"):
        fails(message)
        with pytest.raises(TransferError):
            FLOAT16.empty_host(5)
    for message in ("shapes do not match", "CUDA error: an illegal memory access was encountered"):
        fails(message)
        with pytest.raises(RuntimeError, match=message):
            FLOAT16.empty_host(5)


class FakeStream:
    """Stands in for a CUDA stream where there is no CUDA: records the calls that it gets, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        empty, copy = torch.empty, torch.Tensor.copy_

        def noted_copy(into: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            self.calls.append("copy" if non_blocking else "waiting copy")
            return copy(into, source)

        def noted_empty(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            self.calls.append("pinned" if pin_memory else "pageable")
            return empty(*shape, **options)

        monkeypatch.setattr(torch.cuda, "default_stream", lambda device: f"engine's on {device}")
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext(self.calls.append("enter")))
        monkeypatch.setattr(torch.Tensor, "copy_", noted_copy)
        monkeypatch.setattr(torch, "empty", noted_empty)

    def wait_stream(self, other: str) -> None:
        self.calls.append(f"wait for {other}")

    def synchronize(self) -> None:
        self.calls.append("synchronise")


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_on_cuda_copies_run_on_a_stream_behind_the_engines_and_have_ended(stored, monkeypatch):
    span, spoiled = span_of(20), span_of(20)
    spoiled.data[1, 1, 1, 1, 1] = 1e6
    transfer = KVTransfer(LAYOUT, CPU, stored)
    stream = FakeStream(monkeypatch)
    transfer._stream = stream  # type: ignore[assignment]
    side = ["wait for engine's on cpu", "enter", "copy", "synchronise"]
    host = transfer.to_host(span)
    assert stream.calls == ["pinned", *side]
    stream.calls.clear()
    back = transfer.adopt(host)  # host memory is not the device's
    assert stream.calls == side
    assert torch.equal(back.data, span.data.to(stored).float())
    assert back.data.data_ptr() != host.data.data_ptr()
    if stored == torch.float16:
        stream.calls.clear()
        with pytest.raises(TransferError, match="cannot hold"):
            transfer.payload(spoiled)
        assert stream.calls[-1] == "synchronise"


def test_other_stored_dtypes_are_refused_by_name():
    with pytest.raises(ValueError, match="cannot be stored as int8; choose one of float32, float16, bfloat16"):
        KVTransfer(LAYOUT, CPU, torch.int8)


def test_a_mover_starts_no_threads_of_its_own():
    span = span_of(4000)  # 3 MB: enough for torch to split every operation among threads, if it may

    def moves() -> list[int]:
        counts = [psutil.Process().num_threads()]
        for stored in (None, torch.float16, torch.bfloat16):
            transfer = KVTransfer(LAYOUT, CPU, stored)
            host = transfer.to_host(span)
            transfer.to_device(host)
            transfer.payload(span)
            transfer.adopt(host)
            counts.append(psutil.Process().num_threads())
        return counts

    torch.set_num_threads(4)  # what a thread starts with that says nothing
    with ThreadPoolExecutor(1, initializer=KVTransfer.initializer) as mover:
        counts = mover.submit(moves).result(timeout=60)
    assert max(counts) == counts[0]


def test_a_description_tells_apart_what_cannot_be_exchanged():
    descriptions = [
        KVTransfer(layout, CPU, stored).describe()
        for layout in (
            LAYOUT,
            KVLayout(layers=4, kv_heads=2, head_dim=16, dtype=torch.float32),
            KVLayout(layers=3, kv_heads=4, head_dim=8, dtype=torch.float32),
            KVLayout(layers=2, kv_heads=3, head_dim=16, dtype=torch.float32),
        )
        for stored in (torch.float32, torch.float16, torch.bfloat16)
    ]
    assert len(set(descriptions)) == len(descriptions)
    assert KVTransfer(LAYOUT, CPU).describe() == descriptions[0]
    assert descriptions[0].startswith("ragcache-kv 1: [3 layers, key and value, 2 heads, tokens, 16] float32 ")


def test_a_records_key_starts_from_model_and_format(tiny_model, llama, monkeypatch):
    layout = tiny_model.layout
    other = TorchModel(llama(rms_norm_eps=1e-5), "other")
    exact, half = KVTransfer(layout, CPU), KVTransfer(layout, CPU, torch.float16)
    keys = [kv_fingerprint(model, transfer) for model in (tiny_model, other) for transfer in (exact, half)]
    assert len(set(keys)) == 4
    assert {len(key) for key in keys} == {16}
    assert kv_fingerprint(tiny_model, KVTransfer(layout, CPU, torch.float32)) == keys[0]
    monkeypatch.setattr(transfer_module, "FORMAT_VERSION", 2)
    assert kv_fingerprint(tiny_model, exact) not in keys
