"""Sites that are killed between a round that counts and their next checkpoint: nothing is sent twice, nothing lost."""

import os
import signal
import stat

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from modules import Plain, Record, loader

from lightning_fed import FederatedStrategy
from lightning_fed.plan import Compression, Masking

pytestmark = pytest.mark.chaos

ROUNDS, SAVED, LAST = 6, 2, 4
MASKED = Masking("required", bits=32, bound=4096.0)


class Checkpoints(Callback):
    """Writes a checkpoint after one round, and dies without a word when the round ``last`` is over for this site."""

    def __init__(self, path, last):
        self.path, self.last = path, last

    def on_train_batch_end(self, trainer, *_):
        version = trainer.callbacks[0].version
        if version == SAVED and not self.path.exists():
            trainer.save_checkpoint(self.path)
        if version == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def train_until(strategy, folder, seed, last, slow_s=0.0):
    path, record = folder / "saved.ckpt", Record()
    record.slow_s = slow_s
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record, Checkpoints(path, last)],
    )
    fit.fit(Plain(), loader(seed, 24, 8), ckpt_path=path if path.exists() else None)
    return fit.current_epoch


def after_all_rounds(federation, name, moment, **plan):
    """The last global model; at ``moment`` of round ``LAST`` the first site is killed, and started again.

    At ``both`` so is the coordinator, once the round has counted.
    """
    here = federation(sites=2, name=name, rounds=ROUNDS, gather_s=10.0, **plan)
    coordinator = here.coordinate(Plain)
    doomed, other = here.sites
    # Where the first site dies while the round is on, the other must still be training.
    slow = here.site(other, train_until, 2, -1, 0.3 if moment == "accepted" else 0.0)
    site = here.site(doomed, train_until, 1, LAST if moment in ("counted", "both") else -1)
    kept = here.folder / doomed / "ledger.jsonl.unsettled"
    if moment == "accepted":
        here.wait_for("update_accepted", site=doomed, round=LAST)
        site.kill()
    if moment:
        site.process.join(60)
        assert site.process.exitcode == -signal.SIGKILL
        assert torch.load(here.folder / doomed / "saved.ckpt")["callbacks"]["RoundLoop"]["version"] == SAVED
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    if moment == "both":
        coordinator.kill()
        coordinator = here.coordinate(Plain)
    if moment:
        site = here.site(doomed, train_until, 1, -1)
    site.result()
    slow.result()
    assert coordinator.result() == "finished"
    if moment:
        assert doomed in here.events("round_finished")[LAST - 1]["participants"]
    assert kept.exists(), "the federation may be extended"
    return here.model(ROUNDS)


@pytest.mark.parametrize(
    ("moment", "plan"),
    [
        ("counted", {"compression": Compression("topk", share=0.1, values="float32")}),
        ("accepted", {"compression": Compression("topk", share=0.1, values="float32")}),
        ("both", {"compression": Compression("topk", share=0.1, values="float32")}),
        ("both", {"compression": Compression("randomk", share=0.2), "masking": MASKED}),
        ("counted", {"compression": Compression("randomk", share=0.2), "masking": MASKED}),
        ("both", {"compression": Compression("topk", share=0.1, values="float32", feedback="ef21")}),
        ("accepted", {"compression": Compression("randomk", share=0.2, feedback="ef21"), "masking": MASKED}),
        ("counted", {"algorithm": {"name": "scaffold"}}),
        ("accepted", {"algorithm": {"name": "scaffold"}}),
        ("both", {"algorithm": {"name": "scaffold"}}),
        ("counted", {"algorithm": {"name": "scaffold"}, "masking": MASKED}),
        ("counted", {"algorithm": {"name": "feddyn"}}),
        ("accepted", {"algorithm": {"name": "feddyn"}, "masking": MASKED}),
    ],
    ids=[
        "topk-counted",
        "topk-accepted",
        "topk-both",
        "randomk-masked-both",
        "randomk-masked",
        "ef21-both",
        "ef21-masked-accepted",
        "scaffold-counted",
        "scaffold-accepted",
        "scaffold-both",
        "scaffold-masked",
        "feddyn-counted",
        "feddyn-masked",
    ],
)
def test_a_killed_site_goes_on_with_what_it_has_sent_and_not_sent(federation, moment, plan):
    """Two runs of the same training, one with a kill: from the checkpoint alone the ends would differ."""
    through = after_all_rounds(federation, "through", "", **plan)
    killed = after_all_rounds(federation, "killed", moment, **plan)
    for name, tensor in through.items():
        # Under masks values are rounded at random, to steps of the bound.
        torch.testing.assert_close(killed[name], tensor, rtol=1e-5, atol=1e-4 if "masking" in plan else 2e-6)
