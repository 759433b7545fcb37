"""TorchModel: `transformers`' layers with our attention, run over packed batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ragcache.engine.torch.attention import ATTENTION_NAME, PackedPlan, SequencePlan, SpanWrite, packed_attention
from ragcache.engine.torch.fingerprint import fingerprint_of
from ragcache.engine.torch.kv import KVLayout, KVSpan
from ragcache.engine.torch.packed_linear import pack_linears, preparation
from ragcache.errors import ModelError
from ragcache.model.checkpoint import Checkpoint, load_config

AttentionInterface.register(ATTENTION_NAME, packed_attention)

PROBE_TOKENS = 24
# float32 chunked against whole differs by about 3e-5 in the logits; wrong attention differs by whole units
PROBE_TOLERANCE = {torch.float32: 1e-2, torch.float16: 0.5, torch.bfloat16: 1.0}


@dataclass(frozen=True, slots=True)
class StepInput:
    """One sequence's share of a step: `tokens` to compute, at positions `start`, `start + 1`, …

    `past` is its KV so far in prompt order; the new KV goes behind it, filling `targets` in order. Without
    `wants_logits`, as in the middle of a prompt, the last layer's product with the vocabulary is spared.
    """

    tokens: Sequence[int]
    start: int
    past: Sequence[KVSpan]
    targets: Sequence[KVSpan]
    wants_logits: bool = True


class TorchModel:
    """A decoder-only model whose KV lives in spans.

    `forward` computes a packed step and returns the logits of each sequence's last token. Models of one `fingerprint`
    compute the same KV; it has to be given if the module's linear layers are packed.
    """

    def __init__(self, module: PreTrainedModel, name: str, fingerprint: bytes | None = None) -> None:
        config = module.config.get_text_config()
        self.name = name
        self.fingerprint = fingerprint or fingerprint_of(module)
        self.module = module
        self.device = module.device
        try:
            self.vocab_size = int(config.vocab_size)
            self.context_length = _context_length(config)
            self.layout = layout_of(config, module.dtype)
        except AttributeError as error:
            raise ModelError(f"{name!r} ({type(module).__name__}) is not a decoder with attention: {error}") from error
        self.eos_tokens = _eos_tokens(module)
        self._check_exact()

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str | None = None) -> TorchModel:
        """Loads the weights: float32 on CPU, bfloat16 or float16 on CUDA.

        Raises ModelError if that fails, also for lack of memory on the device.
        """
        config = load_config(checkpoint)
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = torch.float32
        if where.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        transformers_logging.disable_progress_bar()
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.location, config=config, dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"cannot load {checkpoint.name!r} as a decoder-only model: {error}") from error
        module, info = loaded
        if missing := sorted(info["missing_keys"]):  # transformers would make them up
            raise ModelError(f"{checkpoint.name!r} lacks {len(missing)} of its weights, {missing[0]} for one")
        fingerprint = fingerprint_of(module)
        try:
            module = module.eval().to(where)
        except RuntimeError as error:  # a full device, or none that answers
            raise ModelError(f"cannot load {checkpoint.name!r} onto {where}: {_first_line(error)}") from error
        with torch.inference_mode():
            if pack_linears(module):
                # what was packed is a copy; copy the rest too, and the file's pages leave the process's memory
                for parameter in module.parameters():
                    parameter.data = parameter.data.clone()
        return cls(module, checkpoint.name, fingerprint)

    def preparation(self) -> Iterator[None]:
        """Prepares for steps of every size, in short parts: else the first of each size takes extra time and memory.

        To be run in the thread that will call `forward`, between its calls or not at all: results are the same.
        """
        # the product with the vocabulary is large, and has few rows: one a sequence
        return preparation(self.module, spared=self.module.get_output_embeddings())

    @torch.inference_mode()
    def forward(self, steps: Sequence[StepInput]) -> Tensor:
        """Runs one packed step; returns logits [n, vocab] in float32, a row for each step that wants them.

        The spans in `targets` grow by the tokens of their step. Every step needs at least one token and as much
        room in its targets as it has tokens.
        """
        plans: list[SequencePlan] = []
        tokens: list[int] = []
        positions: list[int] = []
        last_rows: list[int] = []
        for step in steps:
            plans.append(_plan(step, len(tokens)))
            tokens.extend(step.tokens)
            positions.extend(range(step.start, step.start + len(step.tokens)))
            if step.wants_logits:
                last_rows.append(len(tokens) - 1)
        device = self.device
        output = self.module(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(last_rows, dtype=torch.long, device=device),
            plan=PackedPlan(plans),
        )
        for step in steps:
            for span, share in _shares(step):
                span.length += share
        return output.logits[0].float()

    def lost(self) -> bool:
        """Whether the device computes nothing any more in this process: a GPU after an illegal access, for one."""
        if self.device.type == "cpu":
            return False
        try:
            torch.zeros(1, device=self.device).cpu()
        except torch.OutOfMemoryError:
            return False
        except RuntimeError:
            return True
        return False

    @torch.inference_mode()
    def _check_exact(self) -> None:
        """Compares split, packed attention with the model's own; refuses a model that we would run wrongly.

        Attention variants (logit caps, sinks, local windows, latent KV) are many and new ones appear: comparing numbers
        detects all that this engine does not reproduce.
        """
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.vocab_size, (PROBE_TOKENS,), generator=generator)
        self.module.set_attn_implementation("eager")
        try:
            expected = self.module(tokens[None].to(self.device), use_cache=False).logits[0, -1].float()
        finally:
            self.module.set_attn_implementation(ATTENTION_NAME)
        try:
            spans = [self.layout.allocate(size, self.device) for size in (7, PROBE_TOKENS - 7)]
            ids = tokens.tolist()
            self.forward([StepInput(ids[:9], 0, [], spans)])
            self.forward([StepInput(ids[9:-1], 9, spans, spans[1:])])
            got = self.forward([StepInput(ids[-1:], PROBE_TOKENS - 1, spans, spans[1:])])[0]
        except torch.OutOfMemoryError as error:
            raise ModelError(f"no memory to run {self.name!r} on {self.device}: {_first_line(error)}") from error
        except (ModelError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise ModelError(
                f"{self.name!r} ({type(self.module).__name__}) does not run with this engine's attention: {error}"
            ) from error
        difference = (got - expected).abs().max().item()
        if not difference <= PROBE_TOLERANCE.get(self.layout.dtype, 1e-2):
            raise ModelError(
                f"{self.name!r} ({type(self.module).__name__}) uses an attention that this engine does not reproduce: "
                f"its logits differ by {difference:.3g} from the model's own"
            )


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _shares(step: StepInput) -> list[tuple[KVSpan, int]]:
    """Number of the step's tokens that go to each of its targets, filled in order. ValueError if there is no room."""
    shares: list[tuple[KVSpan, int]] = []
    left = len(step.tokens)
    for span in step.targets:
        if share := min(span.room, left):
            shares.append((span, share))
            left -= share
    if left:
        raise ValueError(f"{left} of {len(step.tokens)} tokens have no room in their spans")
    return shares


def _plan(step: StepInput, first: int) -> SequencePlan:
    """The plan of a step whose tokens start at row `first` of the packed batch."""
    writes: list[SpanWrite] = []
    row = first
    for span, share in _shares(step):
        writes.append(SpanWrite(span.views(span.length, span.length + share), row, row + share))
        row += share
    past = {id(span): (span, span.length) for span in step.past if span.length}
    single = len(step.tokens) == 1
    if single:  # it is read back from its span, in one piece with what stands before it there
        ((span, _),) = _shares(step)
        past[id(span)] = (span, span.length + 1)
    return SequencePlan(
        first, row, [span.views(0, length) for span, length in past.values()], writes, causal=not single
    )


def layout_of(config: Any, dtype: torch.dtype) -> KVLayout:
    """Shape of the KV of a decoder with this text configuration. Raises AttributeError if it has no attention."""
    heads = config.num_attention_heads
    return KVLayout(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=dtype,
    )


def _context_length(config: Any) -> int:
    """Longest prompt plus output, in tokens.

    A sliding window or a chunk bounds it, for within one attention is full. So does the length from which longrope
    turns every position differently: KV from before would not fit behind it.
    """
    limits = [config.max_position_embeddings, getattr(config, "attention_chunk_size", None)]
    if getattr(config, "use_sliding_window", True):
        limits.append(getattr(config, "sliding_window", None))
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        limits.append(rope.get("original_max_position_embeddings"))
    return min(int(limit) for limit in limits if limit)


def _eos_tokens(module: PreTrainedModel) -> frozenset[int]:
    for source in (module.generation_config, module.config.get_text_config()):
        eos = getattr(source, "eos_token_id", None)
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    return frozenset()
