"""Packed layers compute what linear layers compute, and stand in for all of them."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ragcache.engine.torch.model import StepInput, TorchModel
from ragcache.engine.torch.packed_linear import PackedLinear, pack_linears, preparation


@pytest.mark.parametrize("rows", [1, 2, 7, 33, 260, 512, 513, 1100])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (96, 33), (33, 96), (1, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_its_definition(rows, inputs, outputs, bias):
    torch.manual_seed(rows)
    linear = nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(1, rows, inputs)
    expected = x.double() @ linear.weight.double().T + (linear.bias.double() if bias else 0.0)
    with torch.inference_mode():
        got = PackedLinear(linear)(x)
    assert got.shape == (1, rows, outputs)
    assert (got.double() - expected).abs().max() < 1e-5


def test_linear_layers_are_replaced_wherever_they_lie_and_others_are_not():
    module = nn.ModuleDict(
        {
            "outer": nn.Linear(4, 4),
            "inner": nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)),
            "float64": nn.Linear(4, 4).double(),
        }
    )
    assert pack_linears(module) == 2
    assert isinstance(module["outer"], PackedLinear)
    assert isinstance(module["inner"][1], PackedLinear)
    assert isinstance(module["float64"], nn.Linear)


@pytest.mark.full(proof="test_linear_layers_are_replaced_wherever_they_lie_and_others_are_not")
@pytest.mark.real
def test_every_product_of_the_default_model_is_packed(model: TorchModel):
    assert not [name for name, child in model.module.named_modules() if isinstance(child, nn.Linear)]
    assert sum(isinstance(child, PackedLinear) for child in model.module.modules()) == 30 * 7 + 1


class Products(TorchDispatchMode):
    """Notes the shapes that oneDNN is given, of what is multiplied and what with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "_linear_pointwise" in str(func):
            self.seen.add((*args[0].shape, result.shape[-1]))
        return result


def test_all_lengths_are_few_shapes_to_onednn():
    """It keeps memory for each number of rows that it has seen, so that a server's would grow with every new one."""
    packed = PackedLinear(nn.Linear(8, 4))
    with torch.inference_mode(), Products() as products:
        for rows in range(1, 2100):
            assert packed(torch.randn(1, rows, 8)).shape == (1, rows, 4)
    assert len(products.seen) == 15 + 512 // 16


def test_after_the_preparation_no_product_has_a_new_shape():
    """Or else a server's memory and the time of its steps would grow at each, for hundreds of requests."""
    module = nn.ModuleDict(
        {
            "up": nn.Linear(8, 4),
            "again": nn.Linear(8, 4),
            "unbiased": nn.Linear(8, 4, bias=False),
            "down": nn.Linear(4, 8),
            "head": nn.Linear(8, 100),
        }
    )
    pack_linears(module)
    with Products() as prepared:
        parts = sum(1 for _ in preparation(module, spared=module["head"]))
    assert parts == 47
    with torch.inference_mode(), Products() as products:
        for rows in range(1, 1100):
            module["up"](torch.randn(1, rows, 8))
            module["down"](torch.randn(1, rows, 4))
    assert prepared.seen == products.seen
    assert not torch.is_inference_mode_enabled()
    assert list(preparation(nn.Linear(8, 4), spared=None)) == []


@pytest.mark.full(proof="test_after_the_preparation_no_product_has_a_new_shape")
@pytest.mark.real
def test_steps_of_the_default_model_have_no_shape_that_was_not_prepared(model: TorchModel):
    with Products() as prepared:
        for _ in model.preparation():
            pass
    assert 0 < len(prepared.seen) < 256 - 16  # the capacity of oneDNN's cache, less the products with the vocabulary
    with Products() as products:
        for count in (1, 9, 100, 530):
            model.forward([StepInput([5] * count, 0, [], [model.layout.allocate(count, model.device)])])
    assert {shape for shape in products.seen - prepared.seen if shape[-1] != model.vocab_size} == set()
