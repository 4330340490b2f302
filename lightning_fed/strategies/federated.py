"""The one changed line: a strategy that makes any LightningModule a federated participant.

Shape: ``Federated`` holds everything that has to do with federation and nothing that has to do with devices; it is
mixed into the Lightning strategy that moves tensors at this site: for one device, for several (DDP), or for several
that share one model's weights (FSDP). The round loop uses only what every strategy has, and talks to the coordinator
from the first process alone, so it needs no second code path. A wrapper around another strategy was the alternative: it
would have to forward some fifty methods, and Lightning asks for types (``isinstance(strategy, DDPStrategy)``) in a
dozen places.
"""

import os
import re
import sys
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from lightning_fed.callbacks.one_package import refuse_mixed
from lightning_fed.errors import FederationError
from lightning_fed.lightning_api import (
    PACKAGES,
    BatchSizeFinder,
    DDPStrategy,
    EarlyStopping,
    LearningRateFinder,
    LightningModule,
    ParallelStrategy,
    Strategy,
    Trainer,
    TrainerFn,
    how_to_change,
    rank_zero_warn,
    served_package,
)
from lightning_fed.participant.metric_followers import undecided
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.policy import SitePolicy
from lightning_fed.strategies.devices import OneDevice, Sharded, check_arguments
from lightning_fed.transport.identity import key_file_of
from lightning_fed.transport.passphrase import passphrase_of

if TYPE_CHECKING:
    from lightning_fed.participant.round_loop import RoundLoop

_LOST = re.compile("gloo|nccl|closed by peer|reset by peer", re.IGNORECASE)
"""What torch says in a collective when another process is gone."""


class Federated(Strategy):
    """Mixed into a strategy: joins the federation for ``fit`` and stays out of the way for everything else."""

    def __init__(
        self,
        coordinator: str | None,
        site: str | None,
        identity: str | Path | None,
        roster: str | Path | None,
        policy: SitePolicy | str | Path | None,
        patience_s: float,
        ledger: str | Path | None,
        data_set: str | None,
        passphrase_file: str | Path | None,
        **strategy: Any,
    ) -> None:
        super().__init__(**strategy)
        self.coordinator = _setting("coordinator", coordinator, "like tcp://coordinator.example:5790")
        self.site = _setting("site", site, "the site's name in the roster")
        self._identity, self._identity_from = key_file_of(identity, self.site)
        self._roster = Path(roster or os.environ.get("LIGHTNING_FED_ROSTER") or "keys/roster.yaml")
        self._policy = policy if isinstance(policy, SitePolicy | None) else SitePolicy.load(policy)
        self._patience_s = patience_s
        self._ledger = Path(ledger) if ledger else Path("ledgers") / f"{data_set or self.site}.jsonl"
        self._data_set = data_set or ""
        self._passphrase = partial(passphrase_of, file=Path(passphrase_file) if passphrase_file else None)
        self._loop: RoundLoop | None = None
        self._tuned: list[str] = []
        self._without_gradient: list[nn.Parameter] = []
        self._undecided: list[EarlyStopping] = []
        self._trainer: weakref.ref[Trainer] | None = None

    def __repr__(self) -> str:
        # A Trainer of the other package puts this into the error with which it refuses this strategy.
        own = served_package()
        mixed = [f"; {how_to_change(other)}" for other in PACKAGES if other != own and other in sys.modules]
        return f"<{type(self).__name__} of site {self.site!r} for a Trainer of {own}{''.join(mixed)}>"

    def take_loop(self, loop: "RoundLoop") -> None:
        """Train with this round loop, in the place of one that reaches the coordinator over its address."""
        self._loop = loop

    def connect(self, model: LightningModule) -> None:
        """Attach the round loop in front of the user's callbacks, so that they all see the global model."""
        trainer = model.trainer
        if self._trainer is not None and self._trainer() is not trainer:
            raise FederationError(
                f"this FederatedStrategy for site {self.site!r} has served another Trainer. Make a new one for each: "
                "Trainer(strategy=FederatedStrategy(...))."
            )
        refuse_mixed(trainer)
        self._trainer = weakref.ref(trainer)
        super().connect(model)
        self._undecided += undecided(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        alone = _alone(trainer)
        if alone:
            rank_zero_warn(f"{alone}: this site does not join the federation.")
            self._tuned += _tuners(trainer)
            self._without_gradient = [parameter for parameter in model.parameters() if parameter.grad is None]
            if self._loop in trainer.callbacks:  # type: ignore[attr-defined]
                trainer.callbacks.remove(self._loop)  # type: ignore[attr-defined]
            return
        if self._loop is None:
            policy = self._policy or SitePolicy()
            own = OwnRoster.load(
                self._roster, self._identity, self._passphrase, policy, self._ledger, self._identity_from
            )
            if own.identity.name != self.site:
                raise FederationError(
                    f"{self._identity.name} is the identity of {own.identity.name!r} and the strategy is for site "
                    f"{self.site!r}. Name the site's own key file (identity=...) or the other site (site=...)."
                )
            if self._policy is None:
                rank_zero_warn(
                    f"site {self.site!r} has no policy: it accepts whatever plan the coordinator sends, be it without "
                    "masks, and whoever is in the roster, and may be asked for its untrained model. Write one, have "
                    "the privacy officer read it, and name it: FederatedStrategy(policy='policy.yaml'). 'lightning-fed "
                    "init --role site --folder example' makes a folder with one to begin from; keep your own key."
                )
            elif self._policy.members is None:
                rank_zero_warn(
                    f"the policy of site {self.site!r} pins no members: whoever makes the roster can fill a quorum of "
                    f"{self._policy.smallest_quorum} with sites of his own. Add to it, under members, the lines that "
                    "'lightning-fed keys show ROSTER' prints, once they were compared by phone."
                )
            # Here and not above: what only rounds need would double the time that this package takes to import.
            from lightning_fed.participant.round_loop import RoundLoop

            self._loop = RoundLoop(
                self.coordinator,
                own,
                policy,
                self._patience_s,
                self._ledger,
                self._ledger.with_name(f"{self._ledger.name}.unsettled"),
                self._ledger.with_name(f"{self._ledger.name}.signed"),
                self._data_set,
                self._ledger.with_name(f"{self._ledger.name}.sent"),
            )
        for callback in self._undecided:
            callback._check_on_train_epoch_end = None
        self._loop.tuned = self._tuned
        if self._loop not in trainer.callbacks:  # type: ignore[attr-defined]
            trainer.callbacks.insert(0, self._loop)  # type: ignore[attr-defined]

    def setup(self, trainer: Trainer) -> None:
        """Take the model's layout before the Trainer's precision changes dtypes: sites may differ in precision."""
        if trainer.state.fn == TrainerFn.FITTING and self._loop and self._loop.plan and self.lightning_module:
            self._loop.take_layout(self.lightning_module)
        super().setup(trainer)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load a checkpoint's weights; those of a global model into layers such as the sites have."""
        if checkpoint.get("federation", {}).get("replace_layers") and self.lightning_module:
            from lightning_fed.privacy.layers import replace_layers

            replace_layers(self.lightning_module)
        super().load_model_state_dict(checkpoint, strict)

    def teardown(self) -> None:
        """Leave no gradient of a tuner's fit, which puts the weights back: it would say that they are trained."""
        for parameter in self._without_gradient:
            parameter.grad = None
        self._without_gradient = []
        super().teardown()

    def on_exception(self, exception: BaseException) -> None:
        """Give the Trainer back as the user made it, so that a fit that failed can be tried again."""
        super().on_exception(exception)
        if isinstance(self, ParallelStrategy) and _LOST.search(str(exception)):
            cause = self._loop.cause if self._loop else ""
            exception.add_note(
                f"site {self.site!r} trains in {self.world_size} processes, and this one, of rank {self.global_rank}, "
                f"has lost another: {cause or 'it has ended, was killed or hangs'}\nLook for what that one printed "
                "last. The site leaves the federation: start it again, and it goes on from the newest global model."
            )
        elif self._loop and self.lightning_module:  # a lost process would not hear it, and Lightning may kill this one
            self._loop.part(self.lightning_module.trainer)
        if self._loop and self.lightning_module:
            self._loop.give_back(self.lightning_module.trainer)


class FederatedStrategy(Federated, OneDevice):
    """Takes part in a federation, with as many devices as the Trainer has.

    Give it to a Trainer and call ``fit`` as ever: the site joins, receives the plan and the global model, trains local
    epochs, exchanges updates, and sees the global model in validation, checkpoints, early stopping and loggers at the
    end of every round. ``fit`` ends when the federation ends, or earlier by the Trainer's own ``max_epochs`` and the
    like. ``strategy="federated"`` works too; arguments then come from the environment.

    Sites are weighed by the examples that they train on, which come from the samplers of their loaders. A module whose
    loaders do not say it has a method ``examples_in_batch(batch) -> int``; see ``lightning_fed.participant.examples``.

    With several devices (``Trainer(devices=4, num_nodes=2)``) Lightning runs the script once a device. Together they
    are one site: the first process speaks for all, and after each round all have the same weights. The strategy then
    becomes a ``DDPStrategy`` or an ``FSDPStrategy``.

    Args:
        coordinator: address like ``tcp://coordinator.example:5790``; else ``LIGHTNING_FED_COORDINATOR``.
        site: this site's name in the roster; else ``LIGHTNING_FED_SITE``.
        identity: the site's secret key file; else ``LIGHTNING_FED_IDENTITY``; else ``keys/<site>.key``. The keys
            that the site changes to may lie under the same name in the folder ``next`` beside it.
        roster: the federation's roster as the site was given it; else ``LIGHTNING_FED_ROSTER``; else
            ``keys/roster.yaml``. If a consortium has signed it, newer ones come from the coordinator.
        policy: what this site accepts from a plan, or the YAML file that says so; without one everything is accepted,
            and a warning says so.
        patience_s: seconds without a connection to the coordinator after which ``fit`` gives up with an error.
        ledger: the site's privacy ledger, written when a plan promises privacy. It belongs to the data: keep it from
            run to run and from federation to federation for as long as they train on the same patients. Else
            ``ledgers/<data_set>.jsonl``, or ``ledgers/<site>.jsonl`` where no data set is named. Beside it the site
            keeps, with these words behind its name: ``.unsettled`` what it has not sent of its updates,
            where a plan compresses them, and the control of SCAFFOLD or FedDyn; ``.signed``, from run to run, which
            masked sums it has let be opened, so that none is opened a second time over other sites; ``.trained``, that
            it has begun to train; ``.sent``, the log of everything that has left it (``lightning-fed audit show``);
            ``.roster-...``, the newest signed roster that it has taken.
        data_set: the site's own name for the data that it trains on, written into the ledger; a ledger of other data is
            refused then.
        passphrase_file: holds the passphrase of a locked key file; else ``LIGHTNING_FED_PASSPHRASE_FILE``, or the
            passphrase itself in ``LIGHTNING_FED_PASSPHRASE``.
        local: how several devices train: ``ddp``, each with the whole model, or ``fsdp``, each with a part of it.
        arguments: further ones for Lightning's ``DDPStrategy`` or ``FSDPStrategy`` and for torch's wrapper, such as
            ``find_unused_parameters``; without effect on one device. In YAML they stand under ``dict_kwargs``.

    Raises:
        ConfigError: an argument is not known.
        FederationError: an argument is missing, a key file is not this site's, or the policy cannot be read.

    Source: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data.
    """

    strategy_name = "federated"

    def __init__(
        self,
        coordinator: str | None = None,
        site: str | None = None,
        identity: str | Path | None = None,
        roster: str | Path | None = None,
        policy: SitePolicy | str | Path | None = None,
        patience_s: float = 600.0,
        ledger: str | Path | None = None,
        data_set: str | None = None,
        passphrase_file: str | Path | None = None,
        *,
        local: Literal["ddp", "fsdp"] = "ddp",
        **arguments: Any,
    ) -> None:
        check_arguments(local, arguments)
        if local == "fsdp":
            self.__class__ = FederatedFSDP  # type: ignore[assignment]
        settings = (coordinator, site, identity, roster, policy, patience_s, ledger, data_set, passphrase_file)
        # A YAML's parser would take the arguments of Lightning's strategies for ours if it saw where these go.
        Federated.__init__(self, *settings, **dict(arguments))

    def _configure_launcher(self) -> None:
        if self.has_several:
            self.become(FederatedDDP)


class FederatedDDP(Federated, DDPStrategy):
    """A site's part on several devices, each with the whole model."""


class FederatedFSDP(Federated, Sharded):
    """A site's part on several devices, each with a part of the model."""


def _alone(trainer: Trainer) -> str:
    """Why a fit is no site's part in a federation; empty if it is."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "fast_dev_run tries the script alone"
    tuners = _tuners(trainer)
    return f"{' and '.join(tuners)} of Lightning's Tuner is a fit of its own" if tuners else ""


def _tuners(trainer: Trainer) -> list[str]:
    """Those that end the fit themselves: ``Tuner`` calls ``Trainer.fit`` with one of them in front of the callbacks."""
    return [
        type(callback).__name__
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, LearningRateFinder | BatchSizeFinder) and callback._early_exit
    ]


def _setting(name: str, value: str | None, hint: str) -> str:
    variable = f"LIGHTNING_FED_{name.upper()}"
    found = value or os.environ.get(variable)
    if not found:
        raise FederationError(f"FederatedStrategy needs {name}=... ({hint}), or the environment variable {variable}.")
    return found
