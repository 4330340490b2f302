"""What rounds take: bytes on the line, seconds, memory and disk."""

from pathlib import Path

from rich.filesize import decimal

from lightning_fed.cli.diagnosis.findings import Findings
from lightning_fed.cli.diagnosis.machine import available_memory
from lightning_fed.coordinator.disk import bytes_free
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.upload_bytes import UploadBytes, expected_upload
from lightning_fed.transport.roster import Roster
from lightning_fed.update.layout import Layout

_VALUE_BYTES = 4
_SITE_VECTORS = 3
"""The global model that a round started from, the update, and what of it is sent or the next model that comes."""

_COORDINATOR_VECTORS = 3
"""The global model, the sum, and the next model."""

_SHORT_S = 0.1

_NO_SPEED = "give the speed of the line that was measured: --line-mbit 20"


def upload_of(plan: FederationPlan, layout: Layout, site: str, roster: Roster) -> UploadBytes:
    """What a round costs a site upwards.

    Raises:
        PlanError: no cohort of the roster could satisfy the plan.
    """
    exchange = Exchange(plan, layout.size, len(roster.sites), layout.statistics)
    return expected_upload(exchange, site, roster.sites)


def check_site_line(findings: Findings, upload: UploadBytes, layout: Layout, line_mbit: float | None) -> None:
    """Say what a round costs a site's line."""
    down = _VALUE_BYTES * layout.size
    found = f"a round takes about {decimal(upload.total)} up and {decimal(down)} down for {layout.size:,} values"
    if line_mbit is None:
        findings.skip(
            "line", f"{found}; how long that takes is not known, since only a round would measure it.", _NO_SPEED
        )
    else:
        seconds = _seconds(upload.total + down, line_mbit)
        findings.ok("line", f"{found}: {_about(seconds)} at {line_mbit:g} Mbit/s either way, beside training.")


def check_coordinator_line(
    findings: Findings, plan: FederationPlan, layout: Layout, roster: Roster, line_mbit: float | None
) -> None:
    """Say what a round costs the coordinator's line."""
    with findings.of("line"):
        sites = min(plan.cohort_size or len(roster.sites), len(roster.sites))
        up = sites * upload_of(plan, layout, next(iter(roster.sites)), roster).total
        down = len(roster.sites) * _VALUE_BYTES * layout.size
        found = f"a round of {sites} sites brings about {decimal(up)} in, and takes {decimal(down)} out"
        if line_mbit is None:
            findings.skip("line", f"{found}; how long that takes is not known before a round.", _NO_SPEED)
            return
        seconds = _seconds(up + down, line_mbit)
        if seconds < plan.round_deadline_s:
            findings.ok("line", f"{found}: {_about(seconds)} at {line_mbit:g} Mbit/s, beside the sites' training.")
        else:
            findings.fail(
                "line",
                f"{found}: {_about(seconds)} at {line_mbit:g} Mbit/s, and a round has {plan.round_deadline_s:g} s.",
                "Raise plan.round_deadline_s, compress (plan.compression), or take a faster line.",
            )


def check_memory(findings: Findings, layout: Layout, vectors: int) -> None:
    """Whether so many float32 vectors of a model fit into the memory that is left."""
    free, needed = available_memory(), vectors * _VALUE_BYTES * layout.size
    if free is None:
        findings.skip("memory", "this operating system does not say how much is free.")
    elif free < needed:
        findings.fail(
            "memory",
            f"{decimal(free)} are free, and the exchange alone holds at least {decimal(needed)} at once.",
            "End what else runs here, or give this computer (or its container) more memory.",
        )
    else:
        findings.ok("memory", f"{decimal(free)} are free; the exchange holds at least {decimal(needed)} at once.")


def check_site_memory(findings: Findings, layout: Layout) -> None:
    """Whether a site has the memory that the exchange takes beside training."""
    check_memory(findings, layout, _SITE_VECTORS)


def check_coordinator_memory(findings: Findings, plan: FederationPlan, layout: Layout, roster: Roster) -> None:
    """Whether the coordinator has the memory for a round."""
    sites = min(plan.cohort_size or len(roster.sites), len(roster.sites))
    keeps = sites if plan.aggregation.needs_single_updates else 0
    check_memory(findings, layout, _COORDINATOR_VECTORS + keeps)


def check_checkpoints(findings: Findings, folder: Path, checkpoint_bytes: int) -> None:
    """Whether a disk has room for a checkpoint and the one that replaces it."""
    while not folder.exists():
        folder = folder.parent
    free = bytes_free(folder)
    if free < 2 * checkpoint_bytes:
        findings.fail(
            "disk",
            f"{decimal(free)} are free at {folder}, and a checkpoint takes {decimal(checkpoint_bytes)}; the older one "
            "is removed after the newer one is there.",
            "Make room, or write checkpoints to another disk.",
        )
    else:
        findings.ok("disk", f"{decimal(free)} are free at {folder}; a checkpoint takes {decimal(checkpoint_bytes)}.")


def _seconds(nbytes: int, line_mbit: float) -> float:
    return 8 * nbytes / (1e6 * line_mbit)


def _about(seconds: float) -> str:
    return f"about {seconds:.1f} s" if seconds >= _SHORT_S else f"less than {_SHORT_S} s"
