import pytest
import torch
from round_fits import Regression, loader, same, state, trainer_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks.adabn import AdaBN
from lightning_fed.errors import ConfigError


class Scanner(Regression):
    """A trained model of a scanner whose images lie around 0; notes the statistics it evaluates with."""

    def __init__(self):
        super().__init__()
        self.body[0] = nn.Identity()
        self.body[1] = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 1)
        self.used = []

    def test_step(self, batch, batch_idx):
        assert not any(m.training for m in self.modules())
        self.used.append(state(self.body[1]))
        super().test_step(batch, batch_idx)


def images(count=50, batch_size=8, gain=3.0, offset=5.0, seed=3):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(count, 4, generator=generator)
    y = clean @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    return DataLoader(TensorDataset(gain * clean + offset, y), batch_size=batch_size)


def test_statistics_are_those_of_the_sites_images():
    module, data = Scanner(), images(count=48)
    trainer_of([AdaBN()]).test(module, data, verbose=False)
    x = data.dataset.tensors[0]
    used = module.used[0]
    assert torch.allclose(used["running_mean"], x.mean(0), atol=1e-5)
    # Batches of eight: the mean of their variances.
    batches = torch.stack([part.var(0) for part in x.split(8)]).mean(0)
    assert torch.allclose(used["running_var"], batches, rtol=1e-5)


def test_a_smaller_last_batch_counts_by_its_images_and_one_of_a_single_image_not():
    module, data = Scanner(), images(count=11, batch_size=8)
    trainer_of([AdaBN()]).test(module, data, verbose=False)
    assert torch.allclose(module.used[0]["running_mean"], data.dataset.tensors[0].mean(0), atol=1e-5)
    module, data = Scanner(), images(count=9, batch_size=8)
    trainer_of([AdaBN()]).test(module, data, verbose=False)
    assert torch.allclose(module.used[0]["running_mean"], data.dataset.tensors[0][:8].mean(0), atol=1e-5)


def test_on_an_unseen_scanner_the_model_is_as_good_as_on_its_own():
    module = Scanner()
    trainer_of(max_epochs=30).fit(module, images(count=400, batch_size=40, gain=1.0, offset=0.0))
    unseen = images(count=400, batch_size=40, seed=9)
    (without,) = trainer_of().test(module, unseen, verbose=False)
    (adapted,) = trainer_of([AdaBN()]).test(module, unseen, verbose=False)
    (own,) = trainer_of().test(module, images(count=400, gain=1.0, offset=0.0, seed=9), verbose=False)
    assert adapted["test_loss"] < 1.1 * own["test_loss"]
    assert without["test_loss"] > 3 * own["test_loss"]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_model_gets_its_statistics_back(verb):
    module = Scanner()
    before = state(module)
    arguments = {} if verb == "predict" else {"verbose": False}
    getattr(trainer_of([AdaBN()]), verb)(module, images(), **arguments)
    assert same(state(module), before)
    assert module.body[1].momentum == 0.1


def test_labels_are_not_looked_at():
    data = images(count=16)
    of_labels = DataLoader(TensorDataset(data.dataset.tensors[0], torch.full((16, 1), float("nan"))), batch_size=8)
    one, other = Scanner(), Scanner()
    trainer_of([AdaBN()]).test(one, data, verbose=False)
    trainer_of([AdaBN()]).test(other, of_labels, verbose=False)
    assert same(one.used[0], other.used[0])


def test_other_images_than_the_evaluated_ones_may_be_named():
    module, other = Scanner(), images(seed=11, offset=-1.0)
    trainer_of([AdaBN(other)]).test(module, images(), verbose=False)
    assert torch.allclose(module.used[0]["running_mean"], other.dataset.tensors[0].mean(0), atol=1e-5)


def test_prediction_adapts_and_predicts_every_image():
    module, data = Scanner(), images()
    without = torch.cat(trainer_of().predict(module, data))
    adapted = torch.cat(trainer_of([AdaBN()]).predict(module, data))
    assert len(without) == len(adapted) == 50 and not torch.allclose(without, adapted)


def test_a_loader_with_persistent_workers_is_evaluated_whole():
    data = images(count=24)
    working = DataLoader(data.dataset, batch_size=8, num_workers=1, persistent_workers=True)
    module = Scanner()
    trainer_of([AdaBN()]).test(module, working, verbose=False)
    assert len(module.used) == 3


def test_the_validation_of_a_fit_is_left_alone():
    def fit(callbacks):
        module = Scanner()
        torch.manual_seed(7)
        trainer = trainer_of(callbacks)
        trainer.fit(module, loader(), images())
        return state(module), trainer.callback_metrics["val_loss"]

    (one, loss), (other, other_loss) = fit([AdaBN()]), fit([])
    assert same(one, other) and loss == other_loss


def test_a_model_or_data_that_cannot_adapt_is_refused():
    module = Scanner()
    with pytest.raises(ConfigError, match="two images"):
        trainer_of([AdaBN()]).test(module, images(count=3, batch_size=1), verbose=False)
    module.body[1] = nn.GroupNorm(2, 4)
    with pytest.raises(ConfigError, match="BatchNorm"):
        trainer_of([AdaBN()]).test(module, images(), verbose=False)
