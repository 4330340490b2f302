"""Federations of two levels for the tests: the coordinator above, regions and sites, each a process of its own."""

from pathlib import Path
from typing import Any

from modules import Plain
from processes import Federation, Program, free_port

from lightning_fed.plan import FederationPlan
from lightning_fed.plan.level import Level
from lightning_fed.region.service import Region
from lightning_fed.region.upstream import Upstream
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster


class TwoLevels:
    """The coordinator above with its regions, and each region with its sites; ``top`` and ``regions`` are federations.

    Args:
        folder: where everything is written.
        plan: of the coordinator above.
        level: of every region.
        sites: names of the sites, by region.
    """

    def __init__(self, folder: Path, plan: FederationPlan, level: Level, sites: dict[str, list[str]]) -> None:
        for name in ("top", *sites):
            (folder / name).mkdir(parents=True)
        self.top = Federation(folder / "top", plan, [*sites])
        self.level = level
        # The plan of a region comes from above; what stands here is not used.
        self.regions = {name: Federation(folder / name, plan, of_region) for name, of_region in sites.items()}

    def region(self, name: str, level: Level | None = None, module: Any = Plain) -> Program:
        """Start a region."""
        own, top = self.regions[name], self.top
        keys = (top.keys / f"{name}.key", top.keys / "roster.yaml")
        return Program(_region, top.address, keys, level or self.level, own.address, own.keys, own.store, module)

    def move(self, name: str) -> None:
        """Have a region listen elsewhere when it is started again, as if its port was taken."""
        self.regions[name].address = f"tcp://127.0.0.1:{free_port()}"


def _region(
    address: str, above: tuple[Path, Path], level: Level, own: str, keys: Path, store: Path, module: Any
) -> str:
    roster = Roster.load(keys / "roster.yaml")
    upstream = Upstream(address, *above, patience_s=60.0)
    region = Region(upstream, level, roster, store, lambda _: b"")
    identity = load_identity(keys / "coordinator.key")
    with region.coordinator(module(), address=own, identity=identity, keep=None, roster_file=None) as coordinator:
        coordinator.run()
    return region.plan.hash
