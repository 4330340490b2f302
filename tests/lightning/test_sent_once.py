"""What is sent once and what is not averaged: named where it is another, or becomes another, at a site."""

import copy
import functools
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from loopback import Loopback
from one_site import plan as one_site_plan
from torch import nn
from torch.ao import quantization
from two_sites import Net, assert_equal_but, data, two_sites

from lightning_fed.errors import FederationError, ModelMismatchError
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process
from lightning_fed.update.layout import layout_of
from lightning_fed.update.layout_checks import check_sound


class Holding(nn.Module):
    """A linear layer beside a buffer."""

    def __init__(self, buffer, **settings):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("held", buffer, **settings)

    def forward(self, x):
        return self.linear(x)


NUMBERS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
NUMBERS += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
NUMBERS += [torch.bool, torch.complex64]


def test_constants_of_every_usual_dtype_are_the_first_sites():
    def make():
        module, values = nn.Module(), torch.randint(0, 9, (5,))
        module.layers = nn.ModuleList(Holding(values.to(dtype)) for dtype in NUMBERS)
        module.forward = module.layers[0].forward
        return Net(module)

    torch.manual_seed(0)
    first = make().state_dict()
    with pytest.warns(UserWarning, match="had other values at this site"):
        run, modules = two_sites(make)
    assert_equal_but(modules)
    for index, dtype in enumerate(NUMBERS):
        held = modules[1].net.layers[index].held
        assert held.dtype == dtype and torch.equal(held, first[f"net.layers.{index}.held"])
        assert torch.equal(held, run.model.state_dict()[f"net.layers.{index}.held"])


@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", "float4_e2m1fn_x2", "complex128"])
def test_what_files_do_not_hold_stays_at_the_site_and_is_named(dtype):
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    buffer = torch.zeros(3, dtype=torch.uint8)
    buffer = buffer.to(torch.complex128) if dtype == "complex128" else buffer.view(getattr(torch, dtype))
    with pytest.warns(UserWarning, match=r"state holds \['net.held'\], 1 in all"):
        run, _ = two_sites(lambda: Net(Holding(buffer.clone())))
    assert run.model.state_dict().keys() == {"net.linear.weight", "net.linear.bias"}


def said_in(make, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        two_sites(make, **settings)
    words = ("tensor", "buffers", "joined")
    return [str(one.message) for one in caught if any(word in str(one.message) for word in words)]


def test_a_site_says_which_constants_it_has_replaced():
    said = said_in(lambda: Net(Holding(torch.randn(3))))
    assert len(said) == 1 and "the buffers ['net.held'], 1 in all, had other values at this site" in said[0]


def test_nothing_is_said_where_sites_are_alike_and_batches_are_counted():
    counts = iter((0, 5))

    def make():
        net = nn.Sequential(Holding(torch.ones(3)), nn.BatchNorm1d(1))
        net[1].num_batches_tracked += next(counts)
        return Net(net)

    assert said_in(make) == []


class Queue(nn.Module):
    """Changes its buffer from the third epoch on."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("queue", torch.zeros(6))
        self.batches = 0

    def forward(self, x):
        self.batches += 1
        if self.batches > 6:
            self.queue.copy_(self.queue.roll(1) + x[:6].sum())
        return self.linear(x)


def test_a_change_that_begins_late_is_named_once_at_each_site():
    assert said_in(lambda: Net(Queue()), rounds=2) == []
    said = said_in(lambda: Net(Queue()), rounds=8)
    assert len(said) == 2 and all("training changes the buffers ['net.queue'], 1 in all" in one for one in said)


class Evaluated(Net):
    """Gets a head of its own, and a buffer, when the fit has begun."""

    def __init__(self):
        super().__init__(Holding(None))

    def on_fit_start(self):
        self.head = nn.Linear(1, 1)

    def on_train_epoch_end(self):
        self.net.held = torch.ones(2)


def test_what_a_module_gets_when_the_fit_has_begun_is_named():
    said = said_in(Evaluated)
    for names in (["head.weight", "head.bias"], ["net.held"]):
        assert sum(f"the module has got {names} since the site joined" in one for one in said) == 2
    assert len(said) == 4


class Teacher(Net):
    """Has a teacher that is a moving average of its weights, as self-supervised modules do."""

    def __init__(self, trainable):
        super().__init__(nn.Linear(4, 1))
        self.teacher = copy.deepcopy(self.net).requires_grad_(trainable)

    def on_train_batch_start(self, batch, batch_idx):
        for theirs, mine in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            theirs.data.mul_(0.9).add_(mine.data, alpha=0.1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 0.05)


def test_a_frozen_teacher_that_moves_is_named_and_one_that_is_exchanged_is_the_mean():
    with pytest.warns(UserWarning, match=r"changes the frozen parameters \['teacher.weight', 'teacher.bias'\], 2 in"):
        _, modules = two_sites(lambda: Teacher(trainable=False))
    assert_equal_but(modules, "teacher.weight", "teacher.bias")
    run, modules = two_sites(lambda: Teacher(trainable=True), rounds=1)
    assert_equal_but(modules)
    teachers = []
    for seed in range(2):  # each site alone for the round, from the first site's model
        torch.manual_seed(0)
        module = Teacher(trainable=True)
        L.Trainer(max_epochs=1, **QUIET).fit(module, data(seed))
        teachers.append(module.teacher.weight)
    mean = sum(teachers) / 2
    assert torch.allclose(run.model.state_dict()["teacher.weight"], mean, atol=1e-6)


class Changing(Teacher):
    """Changes both kinds of what is sent once."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(trainable=False)
        self.register_buffer("seen", torch.zeros(1))

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.seen += batch[0].sum()


def test_what_a_site_has_made_of_its_constants_comes_back_with_its_checkpoint(tmp_path):
    here = Loopback(tmp_path, one_site_plan(4, epochs=1))
    keep = ModelCheckpoint(tmp_path / "kept", save_last=True)
    options = {**QUIET, "enable_checkpointing": None, "default_root_dir": tmp_path}
    L.Trainer(max_epochs=2, callbacks=[keep], strategy=here.strategy(), **options).fit(Changing(), data(0))
    here.wait()
    here.begin(one_site_plan(4, epochs=1))
    resumed, whole = Changing(), Changing()
    L.Trainer(max_epochs=-1, strategy=here.strategy(), **options).fit(resumed, data(0), ckpt_path=keep.last_model_path)
    here.wait()
    assert here.versions == [0, 1, 2, 3, 4]
    L.Trainer(max_epochs=4, **QUIET).fit(whole, data(0))
    assert float(whole.seen) != 0
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name


def test_a_shared_layer_may_hold_what_is_worked_out_anew_or_cannot_be_sent():
    class Twice(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.first, self.last = layer, nn.Linear(4, 1)
            self.second = self.first

        def forward(self, x):
            return self.last(self.second(self.first(x)))

    torch.manual_seed(0)
    run, modules = two_sites(lambda: Net(Twice(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))), rounds=6)
    again = Net(Twice(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))))
    again.load_state_dict(run.model.state_dict())
    for module in (*modules, again):
        module.eval()
        assert float(torch.linalg.matrix_norm(module.net.second.weight, 2)) == pytest.approx(1, abs=1e-3)
    shared = Twice(Holding(torch.zeros(3, dtype=torch.complex128)))
    layout = layout_of(shared)
    check_sound(layout)
    assert [second for second, _ in layout.tied] == ["second.linear.weight", "second.linear.bias"]


@pytest.mark.parametrize(
    ("names", "buffer", "settings", "reason"),
    [
        (("hold",), torch.zeros(3), {}, "'hold', which is no buffer of its state"),
        ("held", torch.zeros(3, dtype=torch.int64), {}, "'held', which is torch.int64"),
        (("held",), torch.zeros(3), {"persistent": False}, "'held', which is torch.float32, or not in its state"),
        (("linear",), torch.zeros(3), {}, "'linear', which is no buffer"),
    ],
)
def test_a_layer_that_names_what_cannot_be_averaged_is_refused(names, buffer, settings, reason):
    layer = type("Layer", (Holding,), {"averaged_buffers": names})(buffer, **settings)
    with pytest.raises(FederationError, match=f"Layer.averaged_buffers names {reason}"):
        layout_of(Net(layer))


def test_one_name_is_a_name_and_a_compiled_layers_buffers_are_its_own():
    layer = type("Layer", (Holding,), {"averaged_buffers": "held"})(torch.zeros(3))
    for net in (layer, torch.compile(layer)):
        assert [spec.name.rpartition(".")[2] for spec in layout_of(Net(net)).exchanged if spec.buffer] == ["held"]


class Growing(nn.Module):
    averaged_buffers = ("seen",)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(0, 4))

    def forward(self, x):
        self.seen = torch.cat([self.seen, x])
        return self.linear(x)


class Widened(L.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.net.weight = nn.Parameter(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("net", "callbacks", "named"),
    [
        (Growing(), [], r"'net.seen' has shape \[24, 4\] now, and had \[0, 4\]"),
        (nn.Linear(4, 1), [Widened()], r"'net.weight' has shape \[2, 4\] now, and had \[1, 4\]"),
    ],
    ids=["buffer", "parameter"],
)
def test_what_is_exchanged_keeps_its_shape_or_is_named(net, callbacks, named):
    site = VirtualSite("site", Net(net), data(0), callbacks)
    with pytest.raises(ModelMismatchError, match=named):
        federate_in_process(one_site_plan(rounds=2, epochs=1), [site])


def quantised():
    net = nn.Sequential(quantization.QuantStub(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return Net(quantization.prepare_qat(net.train()))


def test_observers_of_quantisation_stay_at_their_sites_and_are_named():
    with pytest.warns(UserWarning, match="training changes the buffers"):
        run, modules = two_sites(quantised)
    first, second = (module.state_dict() for module in modules)
    for name, value in first.items():
        exchanged = name in dict(modules[0].named_parameters())
        assert not exchanged or torch.equal(value, second[name])
        assert not exchanged or torch.equal(value, run.model.state_dict()[name])
    ranges = [module.net[0].activation_post_process.activation_post_process.max_val for module in modules]
    assert all(torch.isfinite(each) for each in ranges) and ranges[0] != ranges[1]


LEAKY = functools.partial(nn.LeakyReLU, 0.1)


class Late(Net):
    """Makes its layers in configure_model, with an argument that is a function."""

    def __init__(self, width: int = 3, activation=LEAKY, scale=lambda x: x):
        super().__init__(None)
        self.save_hyperparameters()

    def configure_model(self):
        if self.net is None:
            inner = nn.Linear(4, self.hparams.width)
            self.net = nn.Sequential(inner, self.hparams.activation(), nn.Linear(self.hparams.width, 1))


def test_a_coordinators_model_is_configured_and_its_checkpoints_load_without_the_functions(tmp_path, caplog):
    torch.manual_seed(5)
    model = Late(7)
    here = Loopback(tmp_path, one_site_plan(2, epochs=1), initial=model)
    assert "do without the model's arguments ['activation', 'scale']" in caplog.text
    site = Late(7)
    L.Trainer(strategy=here.strategy(), max_epochs=-1, **QUIET).fit(site, data(0))
    here.wait()
    assert here.versions == [0, 1, 2]
    first, last = (Late.load_from_checkpoint(tmp_path / f"store/models/00000{version}.ckpt") for version in (0, 2))
    for loaded, same in ((first, model), (last, site)):
        assert loaded.hparams.width == 7 and loaded.net[1].negative_slope == 0.1
        assert all(torch.equal(value, same.state_dict()[name]) for name, value in loaded.state_dict().items())
