"""What the algorithms do beside DP-SGD: come after its noise, or refuse."""

import pytest
import torch
from opacus import PrivacyEngine
from round_fits import Regression, Rounds, fitted, loader
from torch import nn

from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.callbacks.fedprox import FedProx
from lightning_fed.callbacks.fedrep import FedRep
from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.callbacks.scaffold import Scaffold
from lightning_fed.errors import ConfigError
from lightning_fed.update.layout import layout_of


class Private(Regression):
    """DP-SGD without noise and with a bound that clips everything to almost nothing."""

    def __init__(self, bound: float) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters, 0.1))
        self.body = nn.Sequential(nn.Linear(4, 8))
        self.bound = bound

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        _, optimizer, _ = PrivacyEngine().make_private(
            module=self,
            optimizer=optimizer,
            data_loader=loader(),
            noise_multiplier=0.0,
            max_grad_norm=self.bound,
            poisson_sampling=False,
            wrap_model=False,
        )
        return optimizer


def test_under_dp_sgd_the_pull_comes_after_clipping_and_noise():
    def away(module):
        module.head.bias.fill_(4.0)

    class Leave(Rounds):
        """Moves the weights away from the global model once the round has begun."""

        def on_train_batch_start(self, trainer, pl_module, batch, index):
            super().on_train_batch_start(trainer, pl_module, batch, index)
            if self.seen == 0:
                with torch.no_grad():
                    away(pl_module)

    bound = 1e-6
    start = Private(bound).head.bias.item()
    bias = fitted(Private(bound), [Leave(100), FedProx(0.5)], max_epochs=1)["head.bias"].item()
    # Three steps, each closes a twentieth of the gap; a pull inside the clipping could not move it by more than 1e-6.
    assert bias == pytest.approx(start + (4 - start) * 0.95**3, abs=1e-4)


def test_under_dp_sgd_scaffold_corrects_after_the_noise_and_its_control_is_a_mean_of_private_gradients():
    bound = 1e-6
    module = Private(bound)
    start = module.head.bias.item()
    scaffold, layout = Scaffold(), layout_of(module)
    scaffold.server_control = torch.zeros(layout.size)
    scaffold.server_control[-1] = 2.0
    bias = fitted(module, [Rounds(100), scaffold], max_epochs=1)["head.bias"].item()
    assert bias == pytest.approx(start - 3 * 0.1 * 2.0, abs=1e-4)
    update = torch.zeros(layout.size)
    update[-1] = bias - start
    # The mean of the clipped gradients is next to nothing, and nothing else may be in the control.
    assert scaffold.upload(update)[layout.size :].abs().max() < 1e-4


@pytest.mark.parametrize(
    "callback",
    [
        lambda: FedRep(["head.*"]),
        lambda: Ditto(0.1),
        lambda: FederatedFinetuning("body", schedule={2: ["0"]}),
    ],
    ids=["FedRep", "Ditto", "FederatedFinetuning"],
)
def test_what_dp_sgd_cannot_account_for_is_refused(callback):
    with pytest.raises(ConfigError, match="DP-SGD"):
        fitted(Private(1.0), [Rounds(100), callback()])


def test_a_backbone_frozen_for_good_goes_with_dp_sgd():
    module = Private(1.0)
    before = module.head.weight.clone()
    fitted(module, [Rounds(100), FederatedFinetuning("body")], max_epochs=1)
    assert not torch.equal(module.head.weight, before)
