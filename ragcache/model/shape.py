"""ModelShape: the sizes of a decoder-only model, from which weights, KV and work follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama-like decoder: grouped-query attention, a gated MLP (three matrices), RMS norms, no biases.

    With `experts` above 1 a router sends each token to `active_experts` of them. `dtype` is that of weights and KV,
    `tied` says that embedding and output share their weights.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    context_length: int
    experts: int = 1
    active_experts: int = 1
    tied: bool = False
    dtype: str = "float16"

    @property
    def itemsize(self) -> int:
        """Bytes of one number of `dtype`."""
        return _BYTES[self.dtype]

    @property
    def query_width(self) -> int:
        """Numbers of a token's queries in one layer, all heads together."""
        return self.heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of a token's KV: a key and a value for each layer and KV head."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.itemsize

    @property
    def expert_weights(self) -> int:
        """Number of weights of one expert (or the MLP) in one layer: gate, up and down."""
        return 3 * self.hidden * self.inner

    @property
    def shared_weights(self) -> int:
        """Number of weights in all layers that every token meets: queries, keys, values, output, and the router."""
        attention = 2 * self.hidden * self.query_width + 2 * self.hidden * self.kv_heads * self.head_dim
        router = self.hidden * self.experts if self.experts > 1 else 0
        return self.layers * (attention + router)

    @property
    def active_weights(self) -> int:
        """Number of weights in all layers that one token meets, those of its experts included."""
        return self.shared_weights + self.layers * self.active_experts * self.expert_weights

    @property
    def output_weights(self) -> int:
        """Number of weights that turn the last hidden state into logits."""
        return self.vocab * self.hidden

    @property
    def weights(self) -> int:
        """Number of all weights, embedding and norms included."""
        norms = (2 * self.layers + 1) * self.hidden
        embeddings = self.output_weights * (1 if self.tied else 2)
        return self.shared_weights + self.layers * self.experts * self.expert_weights + embeddings + norms

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.weights * self.itemsize

    def weights_read(self, tokens: int) -> float:
        """Number of weights that a step over `tokens` tokens reads, on average.

        These are all but the embedding, of which it looks up rows, and but for experts that no token goes to: if the
        router has no favourites, n tokens that choose k of E each go to E·(1 − (1 − k/E)^n) of them.
        """
        touched = self.experts * (1.0 - (1.0 - self.active_experts / self.experts) ** tokens)
        return self.shared_weights + self.layers * touched * self.expert_weights + self.output_weights


MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            # name, layers, hidden, heads, KV heads, head size, inner, vocabulary, context: each model's config.json
            ModelShape("mistral-7b", 32, 4096, 32, 8, 128, 14336, 32000, 32768),
            ModelShape("llama2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096),
            ModelShape("mixtral-8x7b", 32, 4096, 32, 8, 128, 14336, 32000, 32768, experts=8, active_experts=2),
            ModelShape("llama2-70b", 80, 8192, 64, 8, 128, 28672, 32000, 4096),
            ModelShape("llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072),
            ModelShape("smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, tied=True, dtype="float32"),
        )
    }
)
