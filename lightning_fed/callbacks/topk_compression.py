"""A site with a slow line sends fewer coordinates than the plan allows."""

from typing import Any

from lightning_fed.callbacks.exchanged_parameters import federation_plan
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import Callback, LightningModule, Trainer
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol.exchange import Exchange


class TopKCompression(Callback):
    """Sends only this share of the update's coordinates, its own largest; the others stay in the site's residual.

    For plans with ``compression: {method: topk}``, in which each site chooses its own coordinates: the plan's share is
    the most that a site may send, and this is what one site does send. Nothing is lost by it: what was not sent is
    added to the next update. A smaller share takes fewer bytes of each round and more rounds.

    At the end of a round it logs ``upload_bytes``, the bytes of the update as it was sent (0 if none was), and
    ``residual_norm``, the L2 norm of what the site has not sent so far; the mean of the rounds where an epoch has
    several. Both stay in the site's own loggers. In ``fast_dev_run``, which joins no federation, it does nothing.

    Args:
        share: share of the coordinates that is sent, above 0 and at most the plan's ``compression.share``.

    Attributes:
        outcome: bytes and norm of the round that is just over; set by the round loop.

    Raises:
        ConfigError: ``share`` is not above 0 and at most 1.

    Source: Stich, Cordonnier and Jaggi 2018, Sparsified SGD with Memory (arXiv 1809.07599).
    """

    def __init__(self, share: float) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"TopKCompression(share={share}) is not possible: share must be above 0 and at most 1.")
        self.share = float(share)
        self.outcome: tuple[int, float] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the plan, before the site joins.

        Raises:
            ConfigError: there is no federation, or its plan does not leave coordinates to each site, or allows fewer.
        """
        self.outcome = None
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        plan = federation_plan(trainer)
        if plan is None:
            raise ConfigError(
                "TopKCompression has nobody to send to: this fit is not part of a federation. Give the Trainer "
                "strategy=FederatedStrategy(...), or leave the callback out."
            )
        self._check(plan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what a round that has just ended cost, and what it left."""
        if self.outcome is None:
            return
        nbytes, norm = self.outcome
        self.outcome = None
        # A batch size, as Lightning would look for one in the batch; each round counts alike.
        values = {"upload_bytes": float(nbytes), "residual_norm": norm}
        pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def _check(self, plan: FederationPlan) -> None:
        compression = plan.compression
        here = f"TopKCompression(share={self.share:g}) lets this site choose its own coordinates, and "
        if compression.method == "topk" and self.share > compression.share:
            raise ConfigError(
                f"TopKCompression(share={self.share:g}) would send more than plan.compression.share = "
                f"{compression.share:g} allows, and the coordinator would refuse it. Take a share of at most "
                f"{compression.share:g}, leave the callback out to send just that, or have the plan's share raised."
            )
        if plan.masking.mode == "required":
            raise ConfigError(
                f"{here}plan.masking hides updates: masks cancel only where all sites send the same coordinates, which "
                f"the plan (compression.method = {compression.method!r}) therefore chooses for all. Leave the callback "
                "out and have plan.compression.share lowered for every site; or, if the coordinator may see each "
                f"site's update, have the plan say\n{self._lines(masks_off=True)}"
            )
        if compression.method != "topk":
            what = {"none": "sends every value"}.get(compression.method, "sends the same coordinates from every site")
            raise ConfigError(
                f"{here}the plan (compression.method = {compression.method!r}) {what}. Leave the callback out, or have "
                f"the plan say\n{self._lines(masks_off=False)}"
            )

    def _lines(self, *, masks_off: bool) -> str:
        lines = ["plan:", f"  compression: {{method: topk, share: {self.share:g}}}"]
        return "\n".join([*lines, "  masking: {mode: off}"] if masks_off else lines)


def own_count(trainer: Trainer, exchange: Exchange) -> int | None:
    """Number of coordinates that the Trainer's ``TopKCompression`` sends; None without one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, TopKCompression):
            return exchange.count_of(callback.share)
    return None
