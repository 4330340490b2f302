"""A region as a running service: the coordinator of its sites, with a line to the coordinator above."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_fed.coordinator.retention import Keep
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import PlanError, PlanRefusedError
from lightning_fed.lightning_api import LightningModule
from lightning_fed.plan import FederationPlan
from lightning_fed.plan.level import Level
from lightning_fed.privacy.layers import replace_layers
from lightning_fed.region.line import Line
from lightning_fed.region.upstream import Upstream
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.roster import Roster

UPSTREAM = "upstream"
"""Folder in the store of what the region keeps as a site of the coordinator above."""


class Region:
    """A region that has met the coordinator above and knows the plan; its sites can come once it is a ``coordinator``.

    Args:
        upstream: the coordinator above, and who the region is there.
        level: what holds among the region's own sites.
        roster: of the region's sites.
        store: folder of the global models and both logs.
        passphrase: see ``load_identity``.

    Attributes:
        above: the plan of the coordinator above.
        plan: the one that the region's sites get.

    Raises:
        FederationError: the coordinator above cannot be reached, or its plan does not go with regions or this level.
    """

    def __init__(
        self, upstream: Upstream, level: Level, roster: Roster, store: Path, passphrase: Callable[[Path], bytes]
    ) -> None:
        self._line = Line(upstream, store / UPSTREAM, passphrase)
        self._roster, self._store = roster, store
        self.above: FederationPlan = self._line.plan
        try:
            self.plan = level.plan_of(self.above, len(roster.sites))
        except PlanError:
            self._line.leave("refused")
            raise

    @contextmanager
    def coordinator(
        self, module: LightningModule, *, address: str, identity: Identity, keep: Keep | None, roster_file: Path | None
    ) -> Iterator[Coordinator]:
        """Join above and listen for sites; leaves above at the end, however it comes.

        Args:
            module: what the sites train; of its weights none are used.
            address: where to listen.
            identity: the region's keys as a coordinator.
            keep: which global models the store keeps.
            roster_file: see ``Coordinator``.

        Raises:
            FederationError: one of its kinds, for what the message says.
        """
        try:
            module.configure_model()
            example = self.plan.privacy.example
            if example and example.replace_layers:
                replace_layers(module)  # as the sites do
            self._line.join(module)
            yield Coordinator(
                self.plan,
                address=address,
                identity=identity,
                roster=self._roster,
                store=self._store,
                initial=module,
                keep=keep,
                roster_file=roster_file,
                above=self._line,
            )
            self._line.leave()
        except PlanRefusedError:
            self._line.leave("refused")
            raise
        except KeyboardInterrupt:
            self._line.leave("interrupted")
            raise
        except BaseException:
            self._line.leave("failed")
            raise
