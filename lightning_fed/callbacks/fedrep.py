"""FedRep: the personal head first, the shared body after it."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import nn

from lightning_fed.callbacks.devices import refuse_unawaited
from lightning_fed.callbacks.exchanged_parameters import exchanged_parameters, federation_layout, refuse_private
from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import LightningModule, Trainer
from lightning_fed.update.personal import personal_names


class FedRep(RoundCallback):
    """Begins each round by training the head alone, and ends it by training everything else.

    The head stays at the site: name the same patterns as the plan's personal layers. What rests is frozen by
    ``requires_grad``, so the user's one optimiser serves both parts and leaves the resting one as it is, momenta
    included. Running statistics of a resting body still follow the site's images. What is exchanged was decided when
    the fit began and does not change. In a fit without rounds this callback does nothing.

    Args:
        head: patterns of the head's parameters, see ``update.personal.personal_names``.
        head_epochs: epochs of a round for the head; 1 if neither number is given. The plan's ``local.epochs`` must be
            larger.
        head_steps: optimiser steps for the head instead, as ``trainer.global_step`` counts them.

    Raises:
        ConfigError: both numbers are given, or one is below 1.

    Source: Collins et al. 2021, Exploiting Shared Representations for Personalized Federated Learning, ICML, arXiv
    2102.07078, algorithm 1.
    """

    def __init__(self, head: Sequence[str], head_epochs: int | None = None, head_steps: int | None = None) -> None:
        if head_epochs is not None and head_steps is not None:
            raise ConfigError(f"FedRep has head_epochs={head_epochs} and head_steps={head_steps}. Keep one of the two.")
        if head_epochs is None and head_steps is None:
            head_epochs = 1
        if (head_epochs or head_steps or 0) < 1:
            raise ConfigError(
                f"FedRep trains the head for {head_epochs or head_steps} of a round: at least 1 is needed."
            )
        self.head, self.head_epochs, self.head_steps = tuple(head), head_epochs, head_steps
        self._head: list[nn.Parameter] = []
        self._body: list[nn.Parameter] = []
        self._part: Literal["head", "body"] | None = None
        self._batches = self._epochs = self._first_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the optimiser can be trusted with parts of the model.

        Raises:
            ConfigError: the fit steps its optimisers by hand, or DDP does not let parts rest.
        """
        if not pl_module.automatic_optimization:
            raise ConfigError(
                f"FedRep freezes parts of the model in turn, and {type(pl_module).__name__} steps its optimisers by "
                "hand, perhaps one for a part that rests. Use automatic optimization."
            )
        refuse_unawaited(trainer, "FedRep")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what this cannot be combined with.

        Raises:
            ConfigError: the fit uses DP-SGD.
        """
        refuse_private(
            trainer,
            "FedRep freezes parts of the model in turn, and DP-SGD needs a gradient of every parameter in each step. "
            "Use personal layers without FedRep: head and body are then trained together (FedPer).",
        )

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Freeze the body.

        Raises:
            ConfigError: the head is exchanged, or has no trainable parameter.
            ModelMismatchError: a pattern matches nothing.
        """
        self._restore()
        names = personal_names(pl_module, self.head)
        shared = sorted(names & exchanged_parameters(trainer, pl_module).keys())
        if federation_layout(trainer) and shared:
            raise ConfigError(
                f"FedRep's head {list(self.head)} holds {shared[0]!r}, which is exchanged. Name the head among the "
                "plan's personal layers."
            )
        trainable = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
        self._head = [p for name, p in trainable if name in names]
        self._body = [p for name, p in trainable if name not in names]
        if not (self._head and self._body):
            raise ConfigError(
                f"FedRep's head {list(self.head)} has {len(self._head)} trainable parameters and the rest of the model "
                f"{len(self._body)}: both must have some."
            )
        self._part, self._batches, self._epochs, self._first_step = "head", 0, 0, trainer.global_step
        _freeze(self._body, True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Change over to the body when the head has had its share."""
        # An epoch is counted when the next begins: a batch's end may already belong to the next round.
        self._epochs += batch_idx == 0 and self._batches > 0
        self._batches += 1
        if self._part != "head":
            return
        steps = trainer.global_step - self._first_step
        if self._epochs >= self.head_epochs if self.head_epochs else steps >= (self.head_steps or 1):
            self._part = "body"
            _freeze(self._body, False)
            _freeze(self._head, True)

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Make everything trainable again.

        Raises:
            ConfigError: the round was over before the body's turn came, so the federation would learn nothing.
        """
        part = self._part
        self._restore()
        if part == "head":
            raise ConfigError(
                f"round {round} ended while FedRep trained the head ({self._share()}), and the body was not trained. "
                "Give the plan more local epochs or steps, or FedRep fewer."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make everything trainable again."""
        self._restore()

    def _restore(self) -> None:
        if self._part:
            _freeze((*self._head, *self._body), False)
        self._part = None

    def _share(self) -> str:
        return f"head_epochs={self.head_epochs}" if self.head_epochs else f"head_steps={self.head_steps}"


def _freeze(parameters: Iterable[nn.Parameter], frozen: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(not frozen)
        if frozen:
            # A gradient of the last step would be used again.
            parameter.grad = None
