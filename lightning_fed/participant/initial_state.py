"""A site's untrained model as the federation's first one: the only state that ever leaves a site without masks.

A coordinator that has no model asks one site for its own, and nothing keeps one that breaks the rules from asking every
site, at every start. So a site gives its state only while nothing shows that it was trained, and not at all if its
policy says so. What the script itself loaded before ``fit`` cannot be told from random weights: a site that starts from
weights of its own says ``gives_initial: false``.
"""

import json
from pathlib import Path

from rich.filesize import decimal
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_fed.errors import PlanRefusedError, StoreError
from lightning_fed.files import write_whole
from lightning_fed.lightning_api import LightningModule, Trainer, rank_zero_info
from lightning_fed.policy import SitePolicy
from lightning_fed.update.aliases import aliases
from lightning_fed.update.global_model import state_bytes, state_of
from lightning_fed.update.layout import Layout, tensors_of

_CURE = (
    "Nothing of the model was sent. Have the coordinator start from a model of its own (model: in its config); if it "
    "had one and lost it, restore its store."
)


class InitialState:
    """Gives the initial state while the site has trained nothing yet.

    Args:
        record: file that says that this site has trained; written before its first round, in whatever federation, and
            never removed. Readable by its owner alone. None where nothing outlives the process.
        site: the site's name.
        policy: what the site accepts.
    """

    def __init__(self, record: Path | None, site: str, policy: SitePolicy) -> None:
        self._record = record
        self._site = site
        self._policy = policy
        self._written = False

    def training_begins(self, run: str, round: int) -> None:
        """Write down that this site trains from now on.

        Raises:
            StoreError: it could not be written; the round must not begin.
        """
        if self._written or self._record is None:
            return
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {self._record.parent} cannot be made: {error.strerror}. The site notes there that it has "
                "begun to train; name another place with FederatedStrategy(ledger=...)."
            ) from error
        if not self._record.exists():
            first = {"site": self._site, "run": run, "round": round}
            write_whole(self._record, json.dumps(first).encode(), private=True)
        self._written = True

    def take(self, trainer: Trainer, module: LightningModule, layout: Layout) -> bytes:
        """The untrained state, safetensors bytes: what is exchanged or frozen, and the other buffers.

        Raises:
            PlanRefusedError: the policy does not allow it, a tensor of it never leaves, or the site has trained.
        """
        if not self._policy.gives_initial:
            raise PlanRefusedError(
                f"site {self._site!r} refused to give the initial model, which leaves without masks: its policy says "
                f"gives_initial = false, as it does by default where masking is required. {_CURE}"
            )
        if (reason := _trained(trainer, module)) or (self._record and self._record.exists()):
            reason = reason or f"it has trained before ({self._record})"
            raise PlanRefusedError(
                f"site {self._site!r} refused to give the initial model, which leaves without masks: {reason}, and "
                f"only an untrained model may leave this way. {_CURE}"
            )
        if module is trainer.lightning_module:
            state = state_of(module)
        else:  # a divided model: to ask for its state takes all processes
            specs = (*layout.exchanged, *layout.frozen, *layout.constants)
            state = dict(zip([spec.name for spec in specs], tensors_of(module, specs), strict=True))
        self._policy.check_names(aliases(module, [name for name in state if name not in layout.personal]), self._site)
        data = state_bytes(state, layout)
        rank_zero_info(
            f"the coordinator has no model: site {self._site!r} gives its untrained one, {decimal(len(data))}, without "
            "masks."
        )
        return data


def _trained(trainer: Trainer, module: nn.Module) -> str | None:
    """What shows that a model was trained, None if nothing does."""
    if trainer.ckpt_path is not None:
        return f"its model comes from the checkpoint {trainer.ckpt_path}"
    if trainer.global_step:
        return f"its Trainer has taken {trainer.global_step} optimiser steps"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            return f"its parameter {name!r} has a gradient"
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.num_batches_tracked is not None and layer.num_batches_tracked:
            return f"its layer {name!r} has averaged {int(layer.num_batches_tracked)} batches"
    return None
