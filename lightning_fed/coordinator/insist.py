"""Writing again what the disk did not take."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lightning_fed.errors import LedgerError, StoreError
from lightning_fed.files import remedy

_RETRY_S, _RETRY_MAX_S = 0.2, 5.0
"""Pause before something is written again, doubled each time, and the longest one."""

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


def insist(what: str, folder: Path, write: Callable[[], _T], at_most_s: float) -> tuple[_T, str, float]:
    """Call ``write`` until the operating system lets it do its work, and say so once.

    Args:
        what: what is written, for the log.
        folder: where it is written to, for the log.
        write: leaves nothing half done when it fails.
        at_most_s: seconds after which an error is raised on.

    Returns:
        What ``write`` returned, why it did not at once (empty if it did), and the seconds that it took.

    Raises:
        StoreError: it could not be written for so long, or for another reason than the operating system's.
        LedgerError: likewise.
    """
    began, pause_s, reason = time.monotonic(), _RETRY_S, ""
    while True:
        try:
            written = write()
            break
        except (StoreError, LedgerError) as error:
            system = error.__cause__
            if not isinstance(system, OSError) or time.monotonic() - began >= at_most_s:
                raise
            if not reason:
                reason = system.strerror or str(system)
                _log.warning(
                    "%s cannot be written to %s: %s. %s: the federation stands still, and it is tried again for %g s "
                    "(plan.gather_s).",
                    what,
                    folder,
                    reason,
                    remedy(system),
                    at_most_s,
                )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _RETRY_MAX_S)
    stood_s = time.monotonic() - began
    if reason:
        _log.warning("%s is written at last, %.0f s late: the federation goes on.", what, stood_s)
    return written, reason, stood_s
