import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from round_fits import Alternating, Quadratic, Regression, Rounds, constant, fitted, loader, same, state, trainer_of

from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.errors import ConfigError


def elsewhere(module):
    for parameter in module.parameters():
        parameter.add_(0.5)


def adamw(parameters):
    return torch.optim.AdamW(parameters, 0.01)


def scheduled(parameters):
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


@pytest.mark.parametrize("optimizer", [None, adamw, scheduled])
@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}])
def test_without_a_pull_the_personal_model_is_bit_for_bit_local_training(optimizer, settings):
    ditto = Ditto(0.0)
    # The global model jumps at every round's start; the personal one must not feel it.
    fitted(Regression(optimizer), [Rounds(3, elsewhere), ditto], **settings)
    assert same(state(ditto.personal), fitted(Regression(optimizer), **settings))


def test_the_fit_itself_is_bit_for_bit_what_it_is_without_ditto():
    with_ditto = fitted(Regression(), [Rounds(3, elsewhere), Ditto(0.7)])
    assert same(with_ditto, fitted(Regression(), [Rounds(3, elsewhere)]))


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def test_the_pull_balances_the_sites_loss_and_the_global_model():
    def to_one(module):
        module.w.fill_(1.0)

    # The site's optimum is 3 with curvature 2, the global model stays at 1: 2 (v - 3) + 0.5 (v - 1) = 0.
    ditto = Ditto(0.5)
    fitted(Quadratic(sgd, 2.0, start=1.0), [Rounds(1, to_one), ditto], constant(3.0, 200), max_epochs=1)
    assert ditto.personal.w.item() == pytest.approx((2 * 3 + 0.5 * 1) / 2.5, abs=1e-5)


def test_a_strong_pull_keeps_the_personal_model_at_the_global_one():
    def to_one(module):
        module.w.fill_(1.0)

    ditto = Ditto(9.0)
    fitted(Quadratic(sgd, 0.01, start=1.0), [Rounds(1, to_one), ditto], constant(3.0, 50), max_epochs=1)
    assert ditto.personal.w.item() == pytest.approx(1.0, abs=0.01)


def test_what_the_personal_model_logs_is_not_mixed_into_the_fits_metrics():
    def loss(callbacks):
        torch.manual_seed(7)
        trainer = trainer_of(callbacks)
        trainer.fit(Regression(), loader())
        return trainer.callback_metrics["train_loss"].item()

    assert loss([Rounds(3, elsewhere), Ditto(0.5)]) == loss([Rounds(3, elsewhere)])


def test_training_resumed_from_a_checkpoint_is_training_that_was_never_interrupted(tmp_path):
    def fit(epochs, resume=None):
        ditto, saver = Ditto(0.0), ModelCheckpoint(tmp_path, filename=f"{epochs}")
        module = Regression()
        module.body[3].p = 0.0
        trainer = trainer_of([Rounds(3), ditto, saver], max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(module, loader(), ckpt_path=resume)
        return ditto, saver.best_model_path

    whole, _ = fit(4)
    _, half = fit(2)
    assert same(state(fit(4, half)[0].personal), state(whole.personal))


def test_the_personal_model_is_evaluated_on_request_and_given_back():
    ditto, module, data = Ditto(0.0), Regression(), loader()
    trainer = trainer_of([Rounds(3, elsewhere), ditto])
    trainer.fit(module, data)
    before = state(module)
    (of_global,) = trainer.validate(module, data, verbose=False)
    with ditto.personal_weights(module):
        (of_personal,) = trainer.validate(module, data, verbose=False)
    assert of_personal["val_loss"] < of_global["val_loss"]
    assert same(state(module), before)


def test_fits_that_ditto_cannot_repeat_are_refused():
    with pytest.raises(ConfigError, match="by hand"):
        fitted(Alternating(), [Ditto(0.1)])
    with pytest.raises(ConfigError, match="no personal model"), Ditto(0.1).personal_weights(Regression()):
        pass
    with pytest.raises(ConfigError, match="lam"):
        Ditto(-1.0)
