"""AccelHbms: how long prefill and decoding take on HBM-PIM devices, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from pimsim.errors import WorkloadError
from pimsim.hbm_pim.attention import Attention, attention
from pimsim.hbm_pim.device import Device
from pimsim.hbm_pim.products import gemm, gemv, kv_append
from pimsim.result import Bound
from pimsim.system.described.config import SystemConfig
from pimsim.system.described.model_shape import ModelShape
from pimsim.system.generation.protocol import NOTHING, Cost, Pieces

GRID = 2  # lengths at which attention is computed differ by this factor; between them it is linear
SHORTEST = 64


@dataclass
class AccelHbms:
    """HBM-PIM devices. A product with few vectors is done at the banks or on the arrays, whichever is faster.

    Tensor parallel: each device has its share of heads and of the feed-forward network, and after each of the two the
    parts are added up over the links. Pipeline parallel: each has its share of layers, and the requests go through in
    as many groups as there are devices.
    """

    config: SystemConfig
    idle_w: float = 0.0
    bounds: list[Bound] = field(default_factory=list)
    _all_matrices: dict[int, Cost] = field(default_factory=dict)
    _weights: dict[tuple[int, int], Cost] = field(default_factory=dict)
    _tokens: dict[tuple[int, int], Cost] = field(default_factory=dict)
    _outputs: dict[int, Cost] = field(default_factory=dict)
    _append: dict[int, Cost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        device, count = self._device, self.config.generation.devices
        self.memory_bytes = float(device.standard.organisation.bytes * device.stacks * count)
        pipeline = self.config.generation.parallel == "pipeline"
        self._stages = min(count, self._model.layers) if pipeline else 1
        self._shares = 1 if pipeline else count
        self.smallest_piece = device.tpm.array_rows if device.tpm else 1
        self._outside = device.external_tbps * 1e12 * self.config.generation.external_share
        self._outside_byte_nj = self._moved_nj()
        floor = self._model.read_weights * self._model.bytes / (device.internal_tbps * 1e12) / count
        self.bounds = [Bound("weights out of all banks, once a step", floor, self.step(1, 1).seconds, "s", True)]

    @property
    def _model(self) -> ModelShape:
        return self.config.model

    @property
    def _device(self) -> Device:
        return self.config.hbm

    def prefill(self, pieces: Pieces) -> Cost:
        rows = pieces.tokens
        if not rows:
            return NOTHING
        if self._stages > 1:  # groups follow each other through the stages
            filled = self._layers(rows, pieces)
            passes = pieces.number
            return Cost(filled.seconds * (1 + (self._stages - 1) / passes) / self._stages, filled.energy).plus(
                self._handed(rows)
            )
        return self._layers(rows, pieces)

    def step(self, requests: int, context: float) -> Cost:
        if not requests:
            return NOTHING
        if self._stages == 1:
            return self._token(requests, context)
        # every group passes all stages before its next token: a stage's time for a group, as often as there are stages
        group = -(-requests // self._stages)
        groups = -(-requests // group)
        one = self._token(group, context / groups)
        return Cost(one.seconds, {part: nj * groups for part, nj in one.energy.items()}).plus(self._handed(requests))

    def load(self, tokens: float) -> Cost:
        moved = 2 * tokens * self._model.kv_token_bytes  # read, and written where it is used
        seconds = moved / (self._outside * self.config.generation.devices)
        return Cost(seconds, {"substitution": self._outside_byte_nj * moved})

    def _moved_nj(self) -> float:
        """nJ of a byte that leaves a device's memory."""
        device = self._device
        term = device.table[device.paths.activate]
        row_bits = device.standard.organisation.row_bytes * 8
        opening = term.nj(1) if term.unit == "pJ/bit" else term.nj(1) / row_bits
        return 8 * (opening + sum(device.table[name].nj(1) for name in device.paths.outside))

    def _handed(self, rows: int) -> Cost:
        """Handing `rows` vectors from stage to stage."""
        size = rows * self._model.hidden * self._model.bytes * (self._stages - 1)
        link = self.config.link
        seconds = size / (link.gbps * 1e9) + (self._stages - 1) * link.latency_ns * 1e-9
        return Cost(seconds, {}, size / self._stages)

    def _reduced(self, rows: int) -> Cost:
        """Adding up partial sums after attention and after the feed-forward network of a layer: to each device and
        back.
        """
        shares = self._shares
        if shares == 1:
            return NOTHING
        size = 2 * (shares - 1) / shares * rows * self._model.hidden * self._model.bytes
        link = self.config.link
        latency = self.config.generation.reduce_latencies * link.latency_ns * 1e-9
        return Cost(2 * (size / (link.gbps * 1e9) + latency), {}, 2 * size)

    def _share(self, outputs: int, inputs: int, split_inputs: bool) -> tuple[int, int]:
        """Outputs and inputs of one device's share of a matrix."""
        if split_inputs:
            return outputs, -(-inputs // self._shares)
        return -(-outputs // self._shares), inputs

    def _product(self, rows: int, outputs: int, inputs: int) -> Cost:
        """A product with weights: seconds of one device, nJ of all."""
        width, device, settings = self._model.bytes, self._device, self.config.generation
        key = (outputs, inputs)
        if key not in self._weights:
            one = gemv(device, outputs, inputs, width=width, fidelity="closed")
            self._weights[key] = Cost(one.time_us * 1e-6, {"weights_in_memory": one.energy_nj["total"] * self._shares})
        in_memory = self._weights[key]
        if device.tpm is None:
            return NOTHING.plus(in_memory, rows)
        work = gemm(device, rows, outputs, inputs, width=width)
        seconds = max(work.time_us * 1e-6, work.bytes / self._outside)
        if in_memory.seconds * rows <= seconds:
            return NOTHING.plus(in_memory, rows)
        macs = rows * outputs * inputs
        energy = {"weights_outside": work.energy_nj["total"], "matrix_unit": macs * settings.mac_pj * 1e-3}
        return Cost(seconds, {part: nj * self._shares for part, nj in energy.items()})

    def _matrices(self, rows: int) -> Cost:
        """The products with weights of all layers, reductions included."""
        if rows in self._all_matrices:
            return self._all_matrices[rows]
        layer = self._reduced(rows)
        for number, (outputs, inputs) in enumerate(self._model.products):
            layer = layer.plus(self._product(rows, *self._share(outputs, inputs, split_inputs=number % 2 == 1)))
        self._all_matrices[rows] = NOTHING.plus(layer, self._model.layers)
        return self._all_matrices[rows]

    def _output(self, rows: int) -> Cost:
        if rows not in self._outputs:
            share = self._share(self._model.vocabulary, self._model.hidden, split_inputs=False)
            self._outputs[rows] = self._product(rows, *share)
        return self._outputs[rows]

    @property
    def _heads(self) -> tuple[int, int]:
        """Query and KV heads of one device."""
        kv = -(-self._model.kv_heads // self._shares)
        return kv * (self._model.heads // self._model.kv_heads), kv

    def _layers(self, rows: int, pieces: Pieces) -> Cost:
        """Prefill of all layers as if on one stage; only the last token of each piece meets the output matrix."""
        model, device = self._model, self._device
        heads, _ = self._heads
        macs = 2 * pieces.pairs * heads * model.head_dim
        tpm = device.tpm
        if tpm is None:
            raise WorkloadError(f"{device.name} has no systolic arrays: prefill needs its file to have a tpm")
        arrays = macs * 2 / (tpm.peak_tflops * 1e12)
        softmax = pieces.pairs * heads * device.softmax_operations / (device.softmax_gflops * device.stacks * 1e9)
        kv = (pieces.tokens + pieces.before) * model.kv_token_bytes / model.layers
        seconds = max(arrays, softmax, kv / self._shares / self._outside)
        nj = macs * self._shares * self.config.generation.mac_pj * 1e-3 + self._outside_byte_nj * kv
        attended = Cost(seconds * model.layers, {"attention_prefill": nj * model.layers})
        return self._matrices(rows).plus(attended).plus(self._output(pieces.number))

    def _token(self, requests: int, context: float) -> Cost:
        """A token of each request in all layers. Attention is linear in the context between the lengths at which it is
        computed.
        """
        length = context / requests
        low = SHORTEST
        while low * GRID <= length:
            low *= GRID
        below, above = self._token_at(requests, low), self._token_at(requests, low * GRID)
        return below.between(above, (length - low) / (low * GRID - low))

    def _token_at(self, requests: int, length: int) -> Cost:
        """A token of each request in all layers, where each has `length` tokens."""
        key = (requests, length)
        if key not in self._tokens:
            layer = self._attended(requests, length).plus(self._appended(requests))
            matrices = self._matrices(requests).plus(self._output(requests))
            self._tokens[key] = matrices.plus(layer, self._model.layers)
        return self._tokens[key]

    def _appended(self, requests: int) -> Cost:
        """Writing K and V of the new tokens of one layer; where they stand in the row matters little."""
        if requests not in self._append:
            _, kv = self._heads
            work = kv_append(self._device, SHORTEST, kv, self._model.head_dim, width=self._model.bytes, batch=requests)
            self._append[requests] = Cost(work.time_us * 1e-6, {"kv_append": work.energy_nj["total"] * self._shares})
        return self._append[requests]

    def _attended(self, requests: int, length: int) -> Cost:
        """Attention of one layer over `length` tokens of each request."""
        heads, kv = self._heads
        layer = Attention(
            length=length,
            heads=heads,
            kv_heads=kv,
            head_dim=self._model.head_dim,
            width=self._model.bytes,
            batch=requests,
            fidelity="closed",
        )
        result = attention(self._device, layer)
        return Cost(result.time_us * 1e-6, {"attention_in_memory": result.energy_nj["total"] * self._shares})
