"""This computer: what is installed, its clock, its memory and disk."""

import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.metadata import version as version_of
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lightning_fed.cli.diagnosis.findings import Findings

_NAMED = ("lightning_fed", "lightning", "torch")

_TOLERATED_S = 60.0
"""How far a file may be ahead of the clock: a network drive stamps files by a clock of its own."""


def check_versions(findings: Findings) -> None:
    """Compare what is installed with what this version of the package needs."""
    wrong = []
    python = metadata("lightning_fed")["Requires-Python"] or ""
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        wrong.append(f"Python {platform.python_version()} (needed: {python})")
    for requirement in map(Requirement, requires("lightning_fed") or ()):
        # What belongs to an extra may be missing.
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version_of(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing (needed: {requirement.specifier or 'any'})")
            continue
        # Builds for CUDA have local versions, like 2.9.0+cu128.
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} (needed: {requirement.specifier})")
    if wrong:
        findings.fail(
            "versions",
            f"not within the range that is supported: {', '.join(wrong)}.",
            "Install them anew: pip install --upgrade lightning_fed",
        )
        return
    installed = ", ".join(f"{name} {version_of(name)}" for name in _NAMED)
    findings.ok("versions", f"{installed}, Python {platform.python_version()}: all within the supported ranges.")


def check_clock(findings: Findings, files: Iterable[Path], now: float | None = None) -> None:
    """Compare the clock with the newest of some files, of which not all have to be there.

    With the coordinator's it is not compared: no message carries a time, and no decision depends on one.
    """
    now = time.time() if now is None else now
    stamps = {path: path.stat().st_mtime for path in files if path.exists()}
    if not stamps:
        findings.skip("clock", "there is no file yet to compare it with.")
        return
    newest = max(stamps, key=lambda path: stamps[path])
    if stamps[newest] > now + _TOLERATED_S:
        findings.fail(
            "clock",
            f"this computer's clock says {_utc(now)}, and {newest} is of {_utc(stamps[newest])}, later than now.",
            "Set the clock (timedatectl status says whether it follows a time server); or touch the file, if it was "
            "written with a wrong clock.",
        )
        return
    findings.ok(
        "clock",
        f"{_utc(now)}, and no file of this federation is newer. It is not compared with others' clocks: no message "
        "carries a time, and none is needed.",
    )


def available_memory() -> int | None:
    """Bytes of memory that this process could still take, within its container's limit; None where nobody says."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return max(0, min(free, limit - int((group / "memory.current").read_text())))
    except (OSError, ValueError):
        # No container, or one without a limit ("max").
        return free


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
