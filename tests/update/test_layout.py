import time

import msgspec
import pytest
import torch
from torch import nn

from lightning_fed.errors import FederationError, ModelMismatchError, UpdateRefusedError
from lightning_fed.update.global_model import GlobalModel, state_bytes
from lightning_fed.update.layout import (
    MAX_TENSORS,
    Layout,
    TensorSpec,
    check_update,
    layout_of,
)
from lightning_fed.update.layout_checks import check_same_layout, check_sound
from lightning_fed.update.vectors import LARGEST_CHANGE


class Network(nn.Module):
    """Two normalised layers and a head, the second normalisation without running statistics."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.GroupNorm(2, 6))
        self.head = nn.Linear(6, classes)


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.middle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)
        self.head.weight = self.middle.weight


def names(specs):
    return [spec.name for spec in specs]


def test_statistics_are_the_ranges_of_floating_point_buffers_in_the_flat_vector():
    layout = layout_of(Network())
    # 24 + 6 of the first layer, 6 + 6 of the scale and shift, then running mean and variance as one range.
    assert layout.statistics == ((42, 54),)
    assert [spec.name for spec in layout.exchanged if spec.buffer] == ["body.1.running_mean", "body.1.running_var"]


def test_ranges_of_statistics_are_disjoint_and_leave_out_empty_buffers():
    layout = Layout(
        (
            TensorSpec("a", (0,), "float32", True),
            TensorSpec("b", (2,), "float32", True),
            TensorSpec("c", (3,), "float32"),
            TensorSpec("d", (), "float32", True),
            TensorSpec("e", (0,), "float32"),
            TensorSpec("f", (4,), "float32", True),
        )
    )
    assert layout.statistics == ((0, 2), (5, 10))


def test_a_layout_survives_the_wire_and_one_without_the_mark_reads_as_parameters():
    layout = layout_of(Network(), ["head.*"])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(layout), type=Layout) == layout
    old = msgspec.json.decode(b'{"exchanged": [["w", [2], "float32"]]}', type=Layout)
    assert old.statistics == () and old.personal == ()


def test_a_personal_head_is_left_out_and_may_have_another_shape_at_each_site():
    one, other = layout_of(Network(1), ["head.*"]), layout_of(Network(5), ["head.*"])
    assert not any(name.startswith("head") for name in names(one.exchanged))
    assert one.personal == ("head.bias", "head.weight")
    check_same_layout(one, other, "st-marys")
    check_sound(other)
    with pytest.raises(ModelMismatchError, match=r"head\.weight \[5, 6\]"):
        check_same_layout(layout_of(Network(1)), layout_of(Network(5)), "st-marys")


def test_a_personal_frozen_tensor_is_not_sent_at_the_start_either():
    network = Network()
    network.head.requires_grad_(False)
    assert names(layout_of(network).frozen) == ["head.weight", "head.bias"]
    assert layout_of(network, ["head.*"]).frozen == ()


def test_normalisation_keeps_every_parameter_and_buffer_of_normalisation_layers():
    layout = layout_of(Network(), ["normalisation"])
    assert names(layout.exchanged) == [
        "body.0.weight",
        "body.0.bias",
        "body.2.weight",
        "body.2.bias",
        "head.weight",
        "head.bias",
    ]
    assert set(layout.personal) == {
        *(f"body.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        "body.3.weight",
        "body.3.bias",
    }


def test_statistics_keeps_running_statistics_alone():
    layout = layout_of(Network(), ["statistics"])
    assert set(layout.personal) == {f"body.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert layout.statistics == ()
    assert layout.size == layout_of(Network()).size - 12


def test_patterns_add_up():
    layout = layout_of(Network(), ["statistics", "head.bias"])
    assert "head.bias" in layout.personal and "body.1.running_var" in layout.personal and len(layout.personal) == 4


def test_a_pattern_that_matches_nothing_is_refused_with_the_names_near_it():
    with pytest.raises(ModelMismatchError, match=r"'haed\.\*'.*head\.bias"):
        layout_of(Network(), ["haed.*"])
    with pytest.raises(ModelMismatchError, match="statistics"):
        layout_of(nn.Linear(2, 2), ["statistics"])


def test_a_model_that_is_personal_altogether_has_nothing_to_exchange():
    with pytest.raises(FederationError, match="6 personal"):
        layout_of(TiedHead(), ["*"])


@pytest.mark.parametrize("pattern", ["middle.weight", "head.weight"])
def test_a_tied_tensor_is_personal_under_all_its_names(pattern):
    layout = layout_of(TiedHead(), [pattern])
    assert layout.personal == ("head.weight", "middle.weight")
    assert layout.tied == ()


@pytest.mark.parametrize(
    "patterns", [(), ("head.*",), ("normalisation",), ("statistics",), ("statistics", "head.*"), ("body.*",)]
)
def test_an_initial_state_holds_nothing_personal_and_the_global_model_none_of_it(patterns):
    network = Network()
    layout = layout_of(network, patterns)
    data = state_bytes(network.state_dict(), layout)
    model = GlobalModel.from_bytes(data, layout)
    assert set(model.state_dict()) == set(network.state_dict()) - set(layout.personal)
    # A coordinator that was given the module itself drops them, too.
    own = GlobalModel.from_state(network.state_dict(), layout)
    assert set(own.state_dict()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])
    # And reads its own store again.
    assert torch.equal(GlobalModel.from_state(own.state_dict(), layout, 3).vector, own.vector)


def test_a_personal_tied_tensor_is_in_no_initial_state_under_any_name():
    module = TiedHead()
    layout = layout_of(module, ["head.*"])
    state = GlobalModel.from_bytes(state_bytes(module.state_dict(), layout), layout).state_dict()
    assert set(state) == {"body.weight", "body.bias", "middle.bias"}


@pytest.mark.parametrize(
    "layout",
    [
        Layout((TensorSpec("a", (2,), "float32"),), (), (), ("a",)),
        Layout((TensorSpec("a", (2,), "float32"),), (), (), ("b", "b")),
        Layout((TensorSpec("a", (2,), "float32"),), (TensorSpec("b", (2,), "float32", True),)),
    ],
)
def test_a_layout_that_contradicts_itself_is_unsound(layout):
    with pytest.raises(ModelMismatchError):
        check_sound(layout)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "1 NaN or infinite values of 6 in tensor 'head.weight'"),
        (float("-inf"), "1 NaN or infinite values of 6 in tensor 'head.weight'"),
        (1.1e12, "1 values of 6 beyond 1e\\+12 in tensor 'head.weight'"),
        (-3e38, "1 values of 6 beyond 1e\\+12 in tensor 'head.weight'"),
    ],
)
def test_an_update_with_an_absurd_value_is_refused_by_the_tensors_name(value, reason):
    layout = layout_of(Network())
    update = torch.zeros(layout.size)
    update[-7] = value
    with pytest.raises(UpdateRefusedError, match=reason):
        check_update(update, layout)


def test_the_largest_change_itself_may_be_sent():
    layout = layout_of(Network())
    check_update(torch.full((layout.size,), -LARGEST_CHANGE), layout)


def test_a_layout_of_most_tensors_is_checked_in_no_time():
    kinds = [
        tuple(TensorSpec(f"{kind}.{index}", (8, 8), "float32") for index in range(MAX_TENSORS))
        for kind in ("exchanged", "frozen")
    ]
    began = time.process_time()
    check_sound(Layout(*kinds))
    # One by one against all frozen ones took 19 seconds for 20,000 of each.
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("dtype", ["_dynamo", "nn", "Tensor", "float", "complex64"])
def test_a_type_that_no_exchanged_tensor_has_is_refused_and_not_looked_up(dtype):
    with pytest.raises(ModelMismatchError, match="impossible tensor"):
        check_sound(Layout((TensorSpec("a", (1,), dtype),)))


def test_of_thousands_of_tied_weights_the_first_that_differs_is_named():
    spec = (TensorSpec("a", (1,), "float32"),)
    ours = Layout(spec, (), tuple((f"name-{index}", "a") for index in range(MAX_TENSORS)))
    theirs = Layout(spec, (), ours.tied[:5000])
    with pytest.raises(ModelMismatchError, match="name-5000") as error:
        check_same_layout(ours, theirs, "north")
    assert len(str(error.value)) < 300


def test_what_is_frozen_on_one_side_alone_is_named_with_the_side_and_the_cure():
    free, part = Network(), Network()
    part.head.requires_grad_(False)
    with pytest.raises(ModelMismatchError, match=r"'head.weight'\] \(2 in all\) are frozen at the site and trained in"):
        check_same_layout(layout_of(free), layout_of(part), "north")
    with pytest.raises(ModelMismatchError, match=r"are frozen in the federation and trained at the site\. Freeze"):
        check_same_layout(layout_of(part), layout_of(free), "north")
