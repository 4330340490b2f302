"""An ordinary script at a site: trains one stranger, first alone for a round, then in the federation.

python site.py CASE SITE ARGUMENTS.json RESULT.pt
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from strangers import SEED, STRANGERS


def fit(case: str, site: int, **settings: Any) -> dict[str, Any]:
    """Make the stranger, and fit it with a Trainer of the package that it was written for."""
    torch.manual_seed(SEED)
    module, *data = STRANGERS[case].make(site)
    lightning = next(kind for kind in type(module).__mro__ if kind.__name__ == "LightningModule").__module__
    if lightning.startswith("pytorch_lightning"):
        import pytorch_lightning as pl
    else:
        import lightning.pytorch as pl
    seen: dict[str, Any] = {"losses": []}

    class Seen(pl.Callback):
        """Notes the losses, and the state when the first epoch has ended, which is the first round."""

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            seen["losses"].append(float(loss.detach()))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if trainer.is_last_batch and trainer.current_epoch == 0:
                seen["first"] = _state(pl_module)

    strategy = settings.pop("strategy", None)
    if strategy:
        # After the stranger's own import of Lightning, as in a script.
        from lightning_fed import FederatedStrategy

        settings["strategy"] = FederatedStrategy(**strategy)
    pl.seed_everything(SEED)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[Seen()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(module, *data)
    return {**seen, "state": _state(module)}


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items() if torch.is_tensor(tensor)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    case, site, arguments, result = sys.argv[1:]
    alone = fit(case, int(site), max_epochs=2)  # as long as the federation: schedules look ahead
    together = fit(case, int(site), strategy=json.loads(Path(arguments).read_text()))
    torch.save({"alone": alone, "together": together}, result)
