"""Packed layers compute what linear layers compute, and stand in for all of them."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ragcache.engine.model import TorchModel
from ragcache.engine.packed_linear import PackedLinear, pack_linears


@pytest.mark.parametrize("rows", [1, 2, 7, 33, 260])
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


@pytest.mark.real
def test_every_product_of_the_default_model_is_packed(model: TorchModel):
    assert not [name for name, child in model.module.named_modules() if isinstance(child, nn.Linear)]
    assert sum(isinstance(child, PackedLinear) for child in model.module.modules()) == 30 * 7 + 1


def test_many_lengths_are_few_shapes_to_onednn():
    """It keeps memory for each number of rows that it has seen, so that a server's would grow with every new one."""
    seen = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "_linear_pointwise" in str(func):
                seen.add(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    packed = PackedLinear(nn.Linear(8, 4))
    with torch.inference_mode(), Watch():
        for rows in range(1, 513):
            assert packed(torch.randn(1, rows, 8)).shape == (1, rows, 4)
    assert 1 < len(seen) <= 16 + 512 // 16
