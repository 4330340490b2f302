import math

import dp_accounting
import lightning as L
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset as MonaiDataset
from monai.losses import DiceLoss
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.stats import binom, chi2
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from examples.fracture.classifier import FractureClassifier
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.errors import BudgetExhaustedError, ConfigError, FederationError, PlanError
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.poisson import PoissonLoader, PoissonSampler, rows

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def data(count=64, width=4):
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, width, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True))


def loader(count=64, batch_size=8, **options):
    return DataLoader(data(count), batch_size=batch_size, **options)


class Regression(L.LightningModule):
    """Counts the rows it was trained on; never sees a batch without any."""

    def __init__(self, net=None, lr=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.net = net or nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.lr = lr
        self.batches = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        assert len(x)
        self.batches.append(len(x))
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Watch(L.Callback):
    """What the optimizer gets in each step: the sum of clipped gradients, and the noisy mean made of it."""

    def __init__(self):
        self.sums, self.means, self.epsilons = [], [], []

    def on_train_start(self, trainer, pl_module):
        optimizer = trainer.optimizers[0]
        add_noise = optimizer.add_noise

        def watched():
            self.sums.append(optimizer._sum.clone())
            add_noise()
            self.means.append(torch.cat([p.grad.flatten() for p in optimizer.params]))

        optimizer.add_noise = watched

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.epsilons.append(float(trainer.callback_metrics.get("epsilon", math.nan)))


def fit(module, privacy, train, callbacks=(), ckpt=None, **options):
    options = {"max_epochs": 1, **QUIET, **options}
    trainer = L.Trainer(callbacks=[privacy, *callbacks], **options)
    trainer.fit(module, train, ckpt_path=ckpt)
    return trainer


# The mechanism


@pytest.mark.parametrize("accumulate", [1, 3])
def test_epsilon_is_dp_accountings_by_pld_opacus_by_prv_and_below_opacus_by_rdp(accumulate):
    privacy, watch = DifferentialPrivacy(noise_multiplier=1.1), Watch()
    fit(Regression(), privacy, loader(), [watch], max_epochs=3, accumulate_grad_batches=accumulate)
    steps, rate = 3 * math.ceil(8 / accumulate), 8 * accumulate / 64
    opacus, by_rdp = PRVAccountant(), RDPAccountant()
    opacus.history = by_rdp.history = [(1.1, rate, steps)]
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(1.1))
    theirs = PLDAccountant().compose(dp_accounting.SelfComposedDpEvent(event, steps)).get_epsilon(1e-5)
    assert len(watch.sums) == steps
    # Opacus' PRV accountant gives an upper bound, by up to 0.01.
    assert privacy.epsilon_so_far == pytest.approx(opacus.get_epsilon(1e-5), abs=0.012)
    assert privacy.epsilon_so_far == pytest.approx(theirs, rel=1e-3)
    assert privacy.epsilon_so_far < 0.95 * by_rdp.get_epsilon(1e-5)
    assert privacy.spent() == DpSgd(rate, 1.1, steps)
    assert privacy.spent() is None


def test_a_target_epsilon_is_met_at_the_end_and_not_passed():
    privacy = DifferentialPrivacy(epsilon=3.0)
    fit(Regression(), privacy, loader(), max_epochs=4)
    assert 2.9 < privacy.epsilon_so_far <= 3.0


def test_a_step_beyond_the_plan_is_not_released_when_it_would_pass_the_target():
    privacy, watch = DifferentialPrivacy(epsilon=1.0), Watch()
    privacy.planned_steps = 5
    with pytest.raises(BudgetExhaustedError, match="was to take 5 steps"):
        fit(Regression(), privacy, loader(), [watch], max_epochs=3)
    assert privacy.epsilon_so_far <= 1.0
    assert len(watch.means) == privacy.spent().steps >= 5


def test_an_example_whose_gradient_is_a_hundred_clipping_norms_moves_the_sum_by_one():
    def summed(targets):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))[: len(targets)]
        train = DataLoader(TensorDataset(x, torch.tensor(targets)[:, None]), batch_size=len(targets))
        watch = Watch()
        module, raw = Regression(), Regression()
        fit(module, DifferentialPrivacy(noise_multiplier=1.0, clipping_norm=1.0), train, [watch], max_epochs=1)
        nn.functional.mse_loss(raw.net(x[-1:]), torch.tensor(targets)[-1:, None]).backward()
        return watch.sums[0], torch.cat([p.grad.flatten() for p in raw.parameters()]).norm()

    near, _ = summed([0.0] * 5)
    far, norm = summed([0.0] * 5 + [100.0])
    assert norm > 100
    assert (far - near).norm() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
@pytest.mark.parametrize("noise_multiplier", [0.5, 2.0])
def test_the_noise_in_a_step_has_the_claimed_variance(noise_multiplier, options):
    watch, clipping_norm = Watch(), 0.3
    privacy = DifferentialPrivacy(noise_multiplier=noise_multiplier, clipping_norm=clipping_norm)
    module = Regression(nn.Sequential(nn.Linear(4, 2000), nn.Tanh(), nn.Linear(2000, 1)))
    fit(module, privacy, loader(64, 8), [watch], **options)
    step_size = 8 * options.get("accumulate_grad_batches", 1)
    noise = torch.stack([m * step_size - s for m, s in zip(watch.means, watch.sums, strict=True)]).double()
    count = noise.numel()
    statistic = float((noise**2).sum()) / (noise_multiplier * clipping_norm) ** 2
    # What the grid adds to the standard deviation is at most 2^-10 of it.
    assert chi2.ppf(1e-6, count) < statistic < chi2.ppf(1 - 1e-6, count) * (1 + 2**-10) ** 2


def test_the_sum_that_noise_is_added_to_is_that_of_the_clipped_gradients():
    watch, train = Watch(), loader(32, 32)
    fit(Regression(), DifferentialPrivacy(noise_multiplier=1.0, clipping_norm=0.7), train, [watch])
    x, y = train.dataset.tensors
    expected = 0
    for row in range(len(x)):
        module = Regression()
        nn.functional.mse_loss(module.net(x[row : row + 1]), y[row : row + 1]).backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        expected += gradient * min(1.0, 0.7 / float(gradient.norm()))
    assert torch.allclose(watch.sums[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("physical", [1, 5, 32])
def test_parts_of_a_batch_give_the_sum_of_the_whole(physical):
    def summed(physical_batch_size):
        watch, module = Watch(), Regression()
        privacy = DifferentialPrivacy(noise_multiplier=1.0, physical_batch_size=physical_batch_size)
        fit(module, privacy, loader(32, 32), [watch])
        return watch.sums[0], module.batches

    whole, one = summed(None)
    parts, several = summed(physical)
    assert one == [32] and max(several) <= physical and sum(several) == 32
    assert torch.allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_accumulated_batches_give_the_sum_of_one_and_are_one_step():
    def summed(batch_size, accumulate):
        watch = Watch()
        privacy = DifferentialPrivacy(noise_multiplier=1.0, clipping_norm=0.5)
        trainer = fit(Regression(), privacy, loader(32, batch_size), [watch], accumulate_grad_batches=accumulate)
        assert trainer.global_step == 1 == len(watch.sums)
        assert privacy.spent() == DpSgd(1.0, 1.0, 1)
        return watch.sums[0]

    assert torch.allclose(summed(8, 4), summed(32, 1), rtol=1e-4, atol=1e-5)


def test_bf16_mixed_clips_in_full_precision():
    watch = Watch()
    train = DataLoader(TensorDataset(torch.randn(1, 4) * 100, torch.zeros(1, 1)), batch_size=1)
    privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=0.1)
    fit(Regression(), privacy, train, [watch], precision="bf16-mixed")
    assert watch.sums[0].dtype == torch.float32
    assert watch.sums[0].norm() == pytest.approx(1.0, abs=1e-5)


def test_batches_of_a_step_that_was_cut_off_do_not_add_to_another():
    watch, privacy = Watch(), DifferentialPrivacy(noise_multiplier=1.0, clipping_norm=1e-3)
    batches, drawn = [], []

    class Shift(L.Callback):
        """Lightning counts one batch too many, as after a checkpoint between two accumulated batches."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                trainer.fit_loop.epoch_loop.batch_progress.current.ready += 1
            batches.append((trainer.train_dataloader.step, len(batch[0])))

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if len(watch.sums) > len(drawn):
                drawn.append(sum(count for step, count in batches if step is batches[-1][0]))
                batches.clear()

    # All examples are the same, and their clipped gradients have the clipping norm.
    train = DataLoader(TensorDataset(torch.ones(40, 4), torch.ones(40, 1)), batch_size=4)
    fit(Regression(lr=0.0), privacy, train, [watch, Shift()], accumulate_grad_batches=3, max_epochs=5)
    assert len(drawn) == len(watch.sums) > 15
    assert [round(float(total.norm()) / 1e-3, 1) for total in watch.sums] == drawn


# Sampling


def test_each_example_is_drawn_on_its_own_and_once_a_step():
    sampler = PoissonSampler(200, 0.15, 400, parts=3)
    batches = list(sampler)
    steps = [[*first, *second, *third] for first, second, third in zip(*[iter(batches)] * 3, strict=True)]
    assert len(batches) == len(sampler) == 1200
    assert all(len(step) == len(set(step)) for step in steps)
    counts = np.bincount(np.concatenate(steps).astype(int), minlength=200)
    low, high = binom.ppf([1e-7, 1 - 1e-7], 400, 0.15)
    assert low <= counts.min() and counts.max() <= high
    # Sizes of Poisson batches vary as a binomial's do; those of shuffled batches would not at all.
    assert np.var([len(step) for step in steps]) == pytest.approx(200 * 0.15 * 0.85, rel=0.35)


def test_a_step_that_draws_nobody_is_noise_alone_and_is_counted():
    watch, module = Watch(), Regression()
    privacy = DifferentialPrivacy(noise_multiplier=1.0)
    trainer = fit(module, privacy, loader(400, 1), [watch], max_steps=100, log_every_n_steps=1)
    empty = [index for index, total in enumerate(watch.sums) if not total.any()]
    assert 10 < len(empty) < 70 and len(module.batches) == 100 - len(empty)
    assert watch.means[empty[0]].std() > 0.5
    assert trainer.global_step == 100 and privacy.spent().steps == 100
    assert not any(map(math.isnan, watch.epsilons[1:]))


class Pictures(L.LightningModule):
    """Takes MONAI's dictionaries, with meta data, and transforms them on the device."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(2 * 36, 1))
        self.seen, self.names = [], []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.seen.append(tuple(batch["image"].shape))
        return {**batch, "image": batch["image"] * 2}

    def training_step(self, batch, batch_idx):
        self.names.append((len(batch["image"]), len(batch["name"]), len(batch["label"])))
        return nn.functional.binary_cross_entropy_with_logits(self.net(batch["image"])[:, 0], batch["label"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


@pytest.mark.parametrize("workers", [0, 2])
def test_monais_dictionaries_pass_empty_and_in_parts(workers):
    from monai.data import MetaTensor

    items = [
        {"image": MetaTensor(torch.rand(1, 8, 8)), "label": float(i % 2), "name": f"case-{i}", "size": 8}
        for i in range(40)
    ]
    module = Pictures()
    train = MonaiLoader(MonaiDataset(items), batch_size=1, num_workers=workers)
    fit(module, DifferentialPrivacy(noise_multiplier=1.0, physical_batch_size=1), train, max_epochs=2)
    assert (0, 1, 8, 8) in module.seen
    assert all(sizes == (1, 1, 1) for sizes in module.names)
    assert len(module.names) == sum(shape[0] for shape in module.seen)


def test_rows_keeps_a_batchs_structure():
    batch = {"x": torch.arange(4), "pair": (torch.ones(4, 2), ["a", "b", "c", "d"]), "weight": torch.ones(3), "n": 4}
    part = rows(batch, 4, 1, 3)
    assert part["x"].tolist() == [1, 2] and part["pair"][0].shape == (2, 2) and part["pair"][1] == ["b", "c"]
    assert part["weight"].shape == (3,) and part["n"] == 4


# Around the module


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_the_fracture_classifier_trains_and_keeps_its_state_names(backbone):
    module = FractureClassifier(backbone, width=4)
    callback = DifferentialPrivacy(noise_multiplier=1.0, replace_layers=True)
    names = [name for name in module.state_dict() if "running_" not in name and "num_batches" not in name]
    seen = []

    class Names(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(list(pl_module.state_dict()))

    images = MonaiDataset([{"image": torch.rand(1, 48, 48), "label": float(i % 2)} for i in range(6)])
    fit(module, callback, DataLoader(images, batch_size=3), [Names()])
    assert seen and all(found == names for found in seen) and list(module.state_dict()) == names
    assert not any(hasattr(p, "grad_sample") for p in module.parameters())


def test_after_the_fit_trainer_and_module_are_as_before():
    module, privacy = Regression(), DifferentialPrivacy(noise_multiplier=1.0)
    trainer = fit(module, privacy, loader())
    assert type(trainer.optimizers[0]) is torch.optim.SGD
    assert not {"training_step", "process_dataloader"} & trainer.strategy.__dict__.keys()
    assert not any(layer._forward_hooks for layer in module.modules())


def test_layers_are_replaced_before_a_checkpoint_is_restored(tmp_path):
    def network():
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    keep = ModelCheckpoint(tmp_path, filename="last")
    first = Regression(network())
    privacy = DifferentialPrivacy(noise_multiplier=1.0, replace_layers=True)
    fit(first, privacy, loader(), [keep], enable_checkpointing=True)
    second = Regression(network())
    again = DifferentialPrivacy(noise_multiplier=1.0, replace_layers=True)
    fit(second, again, loader(), max_epochs=2, ckpt=tmp_path / "last.ckpt")
    assert isinstance(second.net[1], nn.GroupNorm) and second.net[1].num_groups == 1


def test_a_fit_stops_at_a_replaced_layer_that_lets_nothing_pass():
    module = Regression(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)))
    privacy = DifferentialPrivacy(noise_multiplier=1.0, replace_layers=True)
    with pytest.raises(ConfigError, match=r"'net\.1', GroupNorm\(1, 2.* normalises 2 value"):
        fit(module, privacy, loader())
    assert privacy.epsilon_so_far == 0
    assert not any(layer._forward_pre_hooks for layer in module.modules())


def test_a_resumed_fit_keeps_the_noise_and_goes_on_counting(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="half", save_top_k=-1, save_on_train_epoch_end=True)
    whole = DifferentialPrivacy(epsilon=2.0)
    whole.planned_steps = 16
    fit(Regression(), whole, loader(), [keep], enable_checkpointing=True)
    half, noise = whole.epsilon_so_far, whole.spent().noise_multiplier

    resumed, watch = DifferentialPrivacy(epsilon=2.0), Watch()
    fit(Regression(), resumed, loader(), [watch], max_epochs=2, ckpt=tmp_path / "half.ckpt")
    assert len(watch.sums) == 8
    assert watch.epsilons[1] > half
    assert resumed.spent() == DpSgd(8 / 64, noise, 16)
    assert 1.9 < resumed.epsilon_so_far <= 2.0

    with pytest.raises(ConfigError, match=r"8 steps were taken .* above the target of 2"):
        fit(Regression(), DifferentialPrivacy(epsilon=2.0), loader(), max_epochs=9, ckpt=tmp_path / "half.ckpt")


def test_epsilon_is_logged_in_every_step():
    watch = Watch()
    trainer = fit(Regression(), DifferentialPrivacy(noise_multiplier=1.0), loader(), [watch], max_epochs=2)
    assert all(a < b for a, b in zip(watch.epsilons[1:], watch.epsilons[2:], strict=False))
    assert "epsilon" in trainer.progress_bar_metrics and "epsilon" in trainer.logged_metrics


def test_a_schedule_over_the_steps_of_the_fit_counts_them_as_ever():
    class Scheduled(Regression):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            steps = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    trainer = fit(Scheduled(), DifferentialPrivacy(noise_multiplier=1.0, physical_batch_size=2), loader())
    assert trainer.global_step == 8
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"epsilon": 1.0, "noise_multiplier": 1.0}, "exactly one"),
        ({"noise_multiplier": 0.0}, "noise_multiplier = 0 must be"),
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1 must be"),
        ({"epsilon": math.inf}, "epsilon = inf must be"),
        ({"epsilon": 1.0, "clipping_norm": 0.0}, "clipping_norm = 0.0 must be"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta = 1.0 must"),
        ({"epsilon": 1.0, "physical_batch_size": 0}, "physical_batch_size = 0 must be"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_once(arguments, message):
    with pytest.raises(FederationError, match=message):
        DifferentialPrivacy(**arguments)


class Stream(IterableDataset):
    def __iter__(self):
        yield from data()


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        (lambda: loader(64, 65), PlanError, "batch of 65 cannot be sampled from 64"),
        (lambda: DataLoader(Stream(), batch_size=4), ConfigError, r"\(Stream\) does not allow"),
        (lambda: loader(sampler=WeightedRandomSampler([1.0] * 64, 64)), ConfigError, "WeightedRandomSampler"),
        (lambda: DataLoader(data(), batch_sampler=[[0, 1]]), ConfigError, "batch_sampler=list"),
        (lambda: {"a": loader(), "b": loader()}, ConfigError, "one training loader"),
        (lambda: [(torch.ones(2, 4), torch.ones(2, 1))], ConfigError, "one training loader"),
    ],
)
def test_a_loader_that_cannot_be_sampled_is_refused_before_training(train, error, message):
    module = Regression()
    with pytest.raises(error, match=message):
        fit(module, DifferentialPrivacy(noise_multiplier=1.0), train())
    assert not module.batches


def test_a_delta_above_one_over_the_examples_is_refused():
    with pytest.raises(PlanError, match=r"delta = 0.02 is above 1 / 64"):
        fit(Regression(), DifferentialPrivacy(epsilon=1.0, delta=0.02), loader())


class OwnParameter(Regression):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class WithLoss(Regression):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss


class Keeps(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)
        self.register_buffer("mean", torch.zeros(1))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            lambda: Regression(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))),
            r"'net.1', BatchNorm1d .*GroupNorm\(1, 8",
        ),
        (lambda: Regression(nn.BatchNorm1d(4, affine=False)), "'net', BatchNorm1d .*mixes"),
        (lambda: Regression(nn.InstanceNorm1d(4, track_running_stats=True)), "running statistics"),
        (lambda: Regression(nn.LSTM(4, 1)), "'net', LSTM .*DPLSTM"),
        (OwnParameter, r"own parameters \['scale'\]"),
        (lambda: WithLoss(nn.MSELoss(reduction="sum")), "'loss', MSELoss .*'sum'"),
        (lambda: WithLoss(nn.CrossEntropyLoss(torch.ones(2))), "'loss', CrossEntropyLoss .*class weights"),
        (lambda: WithLoss(DiceLoss(batch=True)), "'loss', DiceLoss .*batch=True"),
        (lambda: Regression(Keeps()), r"'net', Keeps \(it has buffers besides its parameters: \['mean'\]"),
    ],
)
def test_a_layer_that_cannot_be_trained_is_named_with_its_replacement(module, message):
    with pytest.raises(ConfigError, match=message):
        fit(module(), DifferentialPrivacy(noise_multiplier=1.0), loader())


class ByHand(Regression):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class TwoOptimizers(ByHand):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)]


class Lbfgs(Regression):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters())


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Regression, {"gradient_clip_val": 1.0}, "gradient_clip_val=1.0"),
        (ByHand, {}, "optimises by hand"),
        (TwoOptimizers, {}, "optimises by hand"),
        (Lbfgs, {}, "LBFGS"),
        (Regression, {"callbacks": [GradientAccumulationScheduler({0: 2})]}, "GradientAccumulationScheduler"),
        (Regression, {"strategy": "ddp", "devices": 2}, r"it runs on 2 devices \(DDPStrategy\)"),
    ],
)
def test_a_fit_that_cannot_be_private_is_refused_before_training(module, options, message):
    module = module()
    options = {**QUIET, "max_epochs": 1, **options}
    callbacks = [DifferentialPrivacy(noise_multiplier=1.0), *options.pop("callbacks", [])]
    if options.get("strategy") == "ddp":
        trainer = L.Trainer(callbacks=callbacks, **options)
        with pytest.raises(ConfigError, match=message):
            callbacks[0].setup(trainer, module, "fit")
        return
    with pytest.raises(ConfigError, match=message):
        L.Trainer(callbacks=callbacks, **options).fit(module, loader())
    assert not module.batches


def test_a_target_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="has no limit"):
        fit(Regression(), DifferentialPrivacy(epsilon=1.0), loader(), max_epochs=-1)


class Crops(Regression):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.net(torch.cat([x, x])), torch.cat([y, y]))


class Functional(Regression):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        return nn.functional.linear(x, self.net[0].weight).square().mean()


class Averages(nn.Module):
    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent=persistent)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x


def test_a_statistic_of_examples_in_the_state_is_refused_before_anything_is_released():
    privacy = DifferentialPrivacy(noise_multiplier=1.0)
    with pytest.raises(ConfigError, match=r"buffer 'net.0.mean' changed"):
        fit(Regression(nn.Sequential(Averages(True), nn.Linear(4, 1))), privacy, loader(8, 8))
    assert privacy.spent() is None
    fit(Regression(nn.Sequential(Averages(False), nn.Linear(4, 1))), privacy, loader(8, 8))
    assert privacy.spent().steps == 1


@pytest.mark.parametrize(("module", "message"), [(Crops, "16 gradients for 8"), (Functional, "net.0.weight")])
def test_gradients_that_are_not_an_examples_own_are_refused_before_anything_is_released(module, message):
    privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=0.01)
    with pytest.raises(ConfigError, match=message):
        fit(module(), privacy, loader(8, 8))
    assert privacy.spent() is None


def test_a_loader_keeps_what_the_users_loader_had():
    theirs = loader(20, 8, num_workers=1, drop_last=True, persistent_workers=True, timeout=3)
    ours = PoissonLoader(theirs)
    assert len(ours) == len(theirs) == 2 and ours.sample_rate == 0.4 and ours.step_size == 8
    assert (ours.num_workers, ours.persistent_workers, ours.timeout) == (1, True, 3)
