"""The global model in a site's module, and what of it the site keeps beside it."""

import torch
from torch import nn

from lightning_fed.participant.global_weights import load_global, update_since
from lightning_fed.update.layout import Layout, TensorSpec


def layout_of(module: nn.Module, dtype: str) -> Layout:
    return Layout(tuple(TensorSpec(name, tuple(one.shape), dtype) for name, one in module.named_parameters()))


def test_a_site_keeps_no_second_copy_of_a_model_that_its_module_holds_to_the_last_bit():
    module = nn.Linear(3, 2)
    layout, vector = layout_of(module, "float32"), torch.arange(8.0)
    start = load_global(module, layout, vector)
    assert start.data_ptr() == vector.data_ptr()
    with torch.no_grad():
        module.weight += 1
    assert torch.equal(start, torch.arange(8.0))
    assert torch.equal(update_since(module, layout, start), torch.tensor([1.0] * 6 + [0.0] * 2))
    assert torch.equal(start, torch.arange(8.0))


def test_what_a_module_of_half_precision_rounds_is_no_part_of_the_update():
    module = nn.Linear(3, 2).to(torch.bfloat16)
    layout, vector = layout_of(module, "bfloat16"), torch.arange(8.0) / 3
    start = load_global(module, layout, vector)
    assert torch.equal(start, vector.to(torch.bfloat16).float())
    assert not torch.equal(start, vector)
    assert not update_since(module, layout, start).any()
