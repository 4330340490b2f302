"""A site's progress bar says which round it is, whichever bar it is, and is the user's own again afterwards."""

import io
from contextlib import redirect_stderr, redirect_stdout

import lightning as L
import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from one_site import Module, loader, plan

from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


@pytest.mark.parametrize("kind", [TQDMProgressBar, RichProgressBar])
def test_the_bar_says_the_round(kind, tmp_path):
    class Seen(kind):
        def get_metrics(self, trainer, pl_module):
            shown = super().get_metrics(trainer, pl_module)
            return {**shown, "mine": 1}

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            said.append(self.get_metrics(trainer, pl_module))
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    said, bar, screen = [], Seen(), io.StringIO()
    with redirect_stderr(screen), redirect_stdout(screen):
        site = VirtualSite("north", Module(), loader(), [bar])
        federate_in_process(plan(rounds=2, epochs=1), [site], enable_progress_bar=True, default_root_dir=tmp_path)
    assert [shown["round"] for shown in said] == ["1/2"] * 3 + ["2/2"] * 3
    assert all(shown["mine"] == 1 for shown in said)
    assert "get_metrics" not in vars(bar)
    if kind is TQDMProgressBar:
        assert "round=2/2" in screen.getvalue()


def test_a_fit_without_the_federation_has_no_round_in_its_bar(tmp_path):
    bar, screen = TQDMProgressBar(), io.StringIO()
    with redirect_stderr(screen), redirect_stdout(screen):
        federate_in_process(
            plan(rounds=1, epochs=1),
            [VirtualSite("north", Module(), loader(), [bar])],
            enable_progress_bar=True,
            default_root_dir=tmp_path,
        )
        first = screen.getvalue()
        trainer = L.Trainer(
            max_epochs=1,
            callbacks=[bar],
            logger=False,
            enable_checkpointing=False,
            accelerator="cpu",
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(Module(), loader())
    assert "round=1/1" in first
    assert "round=" not in screen.getvalue()[len(first) :]
