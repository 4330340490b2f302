import pytest
import torch
from lightning.pytorch.callbacks import Callback
from round_fits import Alternating, Regression, Rounds, fitted, same

from lightning_fed.callbacks.fedrep import FedRep
from lightning_fed.errors import ConfigError, ModelMismatchError
from lightning_fed.update.layout import layout_of


class Moves(Callback):
    """Which of head and body each batch moved."""

    def __init__(self):
        self.moved = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        moved = {
            name.split(".")[0] for name, p in pl_module.named_parameters() if not torch.equal(p, self.before[name])
        }
        self.moved.append("+".join(sorted(moved)))


def test_the_head_is_trained_first_and_then_the_body_in_every_round():
    moves = Moves()
    # Three batches an epoch: rounds of three epochs, the head has the first of them.
    fitted(Regression(), [Rounds(9), FedRep(["head.*"], head_epochs=1), moves], max_epochs=6)
    assert moves.moved == (["head"] * 3 + ["body"] * 6) * 2


def test_steps_may_divide_a_round_in_the_middle_of_an_epoch():
    moves = Moves()
    fitted(Regression(), [Rounds(4), FedRep(["head.*"], head_steps=1), moves], max_epochs=4)
    assert moves.moved == (["head"] + ["body"] * 3) * 3


def test_accumulated_batches_count_as_one_step():
    moves = Moves()
    fitted(
        Regression(),
        [Rounds(6), FedRep(["head.*"], head_steps=1), moves],
        max_epochs=4,
        accumulate_grad_batches=3,
    )
    assert moves.moved == ["", "", "head", "", "", "body"] * 2


def test_everything_is_trainable_again_after_the_fit():
    module = Regression()
    fitted(module, [Rounds(9), FedRep(["head.*"])])
    assert all(p.requires_grad for p in module.parameters())


def test_what_the_user_froze_stays_frozen():
    module = Regression()
    module.body[0].weight.requires_grad_(False)
    before = module.body[0].weight.clone()
    fitted(module, [Rounds(9), FedRep(["head.*"])])
    assert torch.equal(module.body[0].weight, before) and not module.body[0].weight.requires_grad


def test_without_rounds_training_is_what_it_was():
    assert same(fitted(Regression(), [FedRep(["head.*"])]), fitted(Regression()))


def test_a_round_too_short_for_the_body_is_an_error():
    with pytest.raises(ConfigError, match="round 1 ended while FedRep trained the head"):
        fitted(Regression(), [Rounds(3), FedRep(["head.*"], head_epochs=1)])


def test_a_head_that_is_exchanged_is_refused_and_a_personal_one_taken():
    with pytest.raises(ConfigError, match=r"head\.(bias|weight)"):
        fitted(Regression(), [Rounds(9, layout=layout_of(Regression())), FedRep(["head.*"])])
    fitted(Regression(), [Rounds(9, layout=layout_of(Regression(), ["head.*"])), FedRep(["head.*"])])


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="Keep one"):
        FedRep(["head.*"], 1, 1)
    with pytest.raises(ConfigError, match="at least 1"):
        FedRep(["head.*"], head_steps=0)
    with pytest.raises(ConfigError, match="both must have some"):
        fitted(Regression(), [Rounds(9), FedRep(["*"])])
    with pytest.raises(ConfigError, match="by hand"):
        fitted(Alternating(), [Rounds(9), FedRep(["head.*"])])
    with pytest.raises(ModelMismatchError, match="haed"):
        fitted(Regression(), [Rounds(9), FedRep(["haed.*"])])
