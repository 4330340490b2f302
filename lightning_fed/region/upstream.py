"""Where a region finds the coordinator above it, and who it is there."""

from dataclasses import dataclass
from pathlib import Path

from lightning_fed.policy import SitePolicy


@dataclass(frozen=True)
class Upstream:
    """The level above a region, of which the region is a site.

    Args:
        address: where the coordinator above listens, like ``tcp://coordinator.example:5790``.
        identity: the region's secret key file as a site of that level.
        roster: that level's roster.
        passphrase_file: holds the passphrase of a locked key file.
        policy: what the region accepts of the plan and the roster above; a YAML file as a site's. Everything if not
            given.
        patience_s: seconds without a connection after which the region gives up.
    """

    address: str
    identity: Path
    roster: Path
    passphrase_file: Path | None = None
    policy: Path | None = None
    patience_s: float = 3600.0

    def read_policy(self) -> SitePolicy:
        """The policy.

        Raises:
            PlanRefusedError: the file is not a policy.
        """
        return SitePolicy() if self.policy is None else SitePolicy.load(self.policy)
