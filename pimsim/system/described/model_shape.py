"""ModelShape: a language model by its sizes, from models/*.yaml, a YAML file, or a config.json of Hugging Face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pimsim import fields
from pimsim.errors import FieldError
from pimsim.fields import Fields
from pimsim.system.described import hugging_face

FOLDER = "models"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder; `bytes` is the size of a number."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    gated: bool
    vocabulary: int
    tied: bool
    bytes: int

    @classmethod
    def load(cls, name: str) -> ModelShape:
        """The shape of that name, of a YAML file, or of a config.json. FieldError says which field is wrong."""
        if name.endswith(".json"):
            return cls._read(Fields(hugging_face.sizes(Path(name)), name))
        return cls._read(fields.load(FOLDER, name))

    @classmethod
    def _read(cls, values: Fields) -> ModelShape:
        sizes = ("layers", "heads", "kv_heads", "head_dim", "hidden", "intermediate", "vocabulary")
        values.text("source", default="not told")
        shape = cls(
            name=values.text("name"),
            **{size: values.integer(size, least=1, most=1 << 24) for size in sizes},
            gated=values.flag("gated"),
            tied=values.flag("tied"),
            bytes=values.integer("bytes", least=1, most=4),
        )
        values.end()
        if shape.heads % shape.kv_heads:
            raise FieldError(f"{values.where}: kv_heads must divide the {shape.heads} heads, not be {shape.kv_heads}")
        if shape.bytes == 3:
            raise FieldError(f"{values.where}: bytes must be 1, 2 or 4, not 3")
        return shape

    # of one layer, and of all

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Outputs and inputs of each matrix of a layer: QKV, projection, feed-forward."""
        attended = self.heads * self.head_dim
        qkv = attended + 2 * self.kv_heads * self.head_dim
        up = self.intermediate * (2 if self.gated else 1)
        return ((qkv, self.hidden), (self.hidden, attended), (up, self.hidden), (self.hidden, self.intermediate))

    @property
    def layer_weights(self) -> int:
        """Numbers of the matrices of a layer."""
        return sum(outputs * inputs for outputs, inputs in self.products)

    @property
    def weights(self) -> int:
        """Numbers of all matrices, the embedding's included once or twice."""
        return self.layers * self.layer_weights + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def read_weights(self) -> int:
        """Numbers that the step of a token reads: all matrices but the embedding, of which it reads a row."""
        return self.layers * self.layer_weights + self.vocabulary * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Bytes of all matrices."""
        return self.weights * self.bytes

    @property
    def kv_token_bytes(self) -> int:
        """Bytes of K and V of one token, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes
