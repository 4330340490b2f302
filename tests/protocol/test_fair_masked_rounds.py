import numpy as np
import pytest
import torch
from wire import Wire, model_of_size

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.update.contribution import Contribution

NAMES = ["site-0", "site-1", "site-2"]


def one_round(masking, losses, q):
    algorithm = {"name": "qfedavg", "q": q, "local_lr": 0.1}
    w = Wire(
        FederationPlan(rounds=1, quorum=2, gather_s=1.0, algorithm=algorithm, masking=masking),
        NAMES,
        5,
        model_of_size(5),
    )

    def train(name):
        site = w.sites[name]
        if site.model and site.joined and site.begun == site.model[0] + 1 and site.begun not in w.trained[name]:
            w.trained[name].add(site.begun)
            data = memoryview(w.update_of(name, site.begun).mul_(0.01).numpy()).cast("B")
            w.up[name].extend(site.submit(site.begun, data, SiteReport(10, 5, losses[name])))
            return True
        return Wire.train(w, name)

    w.train = train
    for name in NAMES:
        w.connect(name)
    w.settle()
    return w


@pytest.mark.parametrize("loss", [0.5, 0.02, 0.001])
def test_the_fair_mean_of_small_losses_is_the_same_under_masks(loss):
    losses = {name: loss * (1 + index) for index, name in enumerate(NAMES)}
    clear = one_round(Masking("off"), losses, 2.0).saved[0].vector
    masked = one_round(Masking(bits=32, bound=loss), losses, 2.0).saved[0].vector
    torch.testing.assert_close(masked, clear, rtol=0.01, atol=1e-7)


def test_a_number_too_small_to_be_summed_is_refused_at_its_site():
    losses = {"site-0": 0.5, "site-1": 0.5, "site-2": 1e-6}
    w = one_round(Masking(bits=32, bound=1.0), losses, 2.0)
    assert [event["site"] for event in w.events("update_refused")] == ["site-2"]
    assert "too small" in w.sites["site-2"].rejected
    assert sorted(w.events("round_finished")[0]["participants"]) == ["site-0", "site-1"]


def test_examples_times_steps_of_a_large_site_fit_the_sum():
    code = Contribution(5, 16, 3, (1.0,), ("examples", "examples_progress"))
    # A million images in five epochs, batches of 32, momentum 0.9.
    numbers = {"examples": 5e6, "examples_progress": 5e6 * 156_250 * 10}
    decoded = code.decode(code.encode(np.zeros(5, dtype=np.float32), numbers), 1)
    assert decoded.numbers == numbers
