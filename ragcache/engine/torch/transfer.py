"""KVTransfer: a span's KV between device, host memory and plain bytes, in the dtype it is stored in.

It moves KV on request and decides nothing. All of it may be called from any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ragcache.engine.torch.engine import leave_cores_to_engine
from ragcache.engine.torch.kv import KVLayout, KVSpan, on_pages
from ragcache.engine.torch.model import TorchModel
from ragcache.errors import TransferError

# version of what `HostSpan.buffer` holds; raise it with any change of order or meaning, so that older bytes are not
# read
FORMAT_VERSION = 1
STORED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# elements converted and then checked at once: 1 MiB of float32 and half of it in float16, which is still in the
# cache when it is checked, in few enough steps that taking the interpreter's lock between them does not show
_CHUNK = 2**18
_EXHAUSTED = ("out of memory", "allocate memory")


@contextlib.contextmanager
def _memory_or_error() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has an exception class for a full device, but not for a full host: only the message tells
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _EXHAUSTED):
            raise
        raise TransferError(f"no memory to move KV: {error}", reason="memory") from error


@dataclass(frozen=True, slots=True, eq=False)
class HostSpan:
    """Complete KV of a segment in host memory: `data` [layers, 2, kv_heads, tokens, head_dim] in the stored dtype.

    The memory returns to the system with the last reference to it or to its `buffer`.
    """

    data: Tensor

    @property
    def tokens(self) -> int:
        return self.data.shape[3]

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def buffer(self) -> memoryview:
        """The bytes themselves, flat and writable."""
        return _bytes_of(self.data)


class KVTransfer:
    """Moves KV of one `layout` between `device` and the host, where it is kept as `stored` (None: as on the device).

    In the device's dtype a round trip gives back every bit. In a narrower one each value is rounded; KV with a value
    that would become infinite, or that is not finite, is refused with TransferError "overflow". Where memory runs out
    TransferError "memory" is raised and nothing has changed.
    """

    def __init__(self, layout: KVLayout, device: torch.device, stored: torch.dtype | None = None) -> None:
        self.layout = layout
        self.device = device
        self.stored = stored or layout.dtype
        if self.stored not in (layout.dtype, *STORED_DTYPES):
            names = ", ".join(map(_name, STORED_DTYPES))
            raise ValueError(f"KV cannot be stored as {_name(self.stored)}; choose one of {names}")
        self._exact = self.stored == layout.dtype
        self._narrows = torch.finfo(self.stored).max < torch.finfo(layout.dtype).max
        # beside the engine's, so that a copy runs while it computes
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @staticmethod
    def initializer() -> None:
        """To be called once in each thread that moves KV beside an engine: then no move uses more than that thread."""
        leave_cores_to_engine()

    @property
    def stored_bytes_per_token(self) -> int:
        return self.layout.bytes_per_token // self.layout.dtype.itemsize * self.stored.itemsize

    @property
    def dtype_name(self) -> str:
        """The stored dtype as people write it, such as float16."""
        return _name(self.stored)

    def describe(self) -> str:
        """All that makes stored bytes interchangeable, whatever the model: version, order, shape, dtype, byte order."""
        layout = self.layout
        return (
            f"ragcache-kv {FORMAT_VERSION}: [{layout.layers} layers, key and value, {layout.kv_heads} heads, tokens, "
            f"{layout.head_dim}] {_name(self.stored)} {sys.byteorder}-endian"
        )

    @_memory_or_error()
    def empty_host(self, tokens: int) -> HostSpan:
        """Host memory for `tokens`, to read a record into.

        On CUDA it is pinned: torch takes that in powers of two, and keeps what is dropped for the next.
        """
        shape = self.layout.shape(tokens)
        if self._stream is None:
            return HostSpan(on_pages(shape, self.stored))
        # a copy from pages that may move would go through the driver's own buffer, and wait for it
        return HostSpan(torch.empty(shape, dtype=self.stored, pin_memory=True))

    @_memory_or_error()
    def to_host(self, span: KVSpan) -> HostSpan:
        """A copy of a full span in host memory of its own."""
        _check_full(span)
        host = self.empty_host(span.length)
        with torch.inference_mode(), self._beside_the_engine():
            if self._stream is not None:
                kept = span.data.to(self.stored)
                if self._narrows and not kept.isfinite().all():
                    raise self._overflow()
                host.data.copy_(kept, non_blocking=True)
            elif self._narrows:
                self._narrow(span.data.view(-1), host.data.view(-1))
            else:
                host.data.copy_(span.data)
        return host

    @_memory_or_error()
    def to_device(self, host: HostSpan) -> KVSpan:
        """A full span in device memory of its own, with the KV of `host`."""
        span = self.layout.allocate(host.tokens, self.device)
        with torch.inference_mode(), self._beside_the_engine():
            # what is to be converted crosses first: of the two devices torch would convert on the CPU
            source = host.data if self._exact else host.data.to(self.device, non_blocking=True)
            span.data.copy_(source, non_blocking=True)
        span.length = host.tokens
        return span

    def adopt(self, host: HostSpan) -> KVSpan:
        """As `to_device`, but takes the memory over where it can serve as the device's: `host` is not to be used again.

        On CPU and in the device's dtype no byte is copied.
        """
        if self._stream is None and self._exact:
            return KVSpan(host.data, host.tokens)
        return self.to_device(host)

    def payload(self, span: KVSpan) -> memoryview:
        """The bytes to store of a full span, flat; on CPU and in the device's dtype those of the span itself."""
        _check_full(span)
        if self._stream is None and self._exact:
            return _bytes_of(span.data)
        return self.to_host(span).buffer

    def payload_of_host(self, host: HostSpan) -> memoryview:
        """The bytes to store, which are those of `host` itself."""
        return host.buffer

    @contextlib.contextmanager
    def _beside_the_engine(self) -> Iterator[None]:
        """On CUDA, what is called inside runs on a stream of its own, and has ended on leaving.

        It starts after what the engine has queued so far: the span's last tokens may be among it, or the last reader
        of memory that is being used anew. That is also why spans are allocated outside.
        """
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.default_stream(self.device))
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._stream.synchronize()

    def _narrow(self, values: Tensor, kept: Tensor) -> None:
        """Converts `values` into `kept`, both flat and in host memory, or raises."""
        for first in range(0, len(values), _CHUNK):
            part = kept[first : first + _CHUNK]
            part.copy_(values[first : first + _CHUNK])
            low, high = part.aminmax()  # NaN if any is
            if not (math.isfinite(low) and math.isfinite(high)):
                raise self._overflow()

    def _overflow(self) -> TransferError:
        return TransferError(
            f"this KV has values that {_name(self.stored)} cannot hold (its largest is "
            f"{torch.finfo(self.stored).max:g}): store it as {_name(self.layout.dtype)}",
            reason="overflow",
        )


def kv_fingerprint(model: TorchModel, transfer: KVTransfer) -> bytes:
    """16 bytes that the key of a stored record starts from: equal if stored KV of one model serves the other."""
    return hashlib.blake2b(model.fingerprint + transfer.describe().encode(), digest_size=16).digest()


def _check_full(span: KVSpan) -> None:
    if span.room:
        raise ValueError(f"a span has to be full to be moved; this one has room for {span.room} more tokens")


def _bytes_of(data: Tensor) -> memoryview:
    return data.view(-1).view(torch.uint8).numpy().data


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
