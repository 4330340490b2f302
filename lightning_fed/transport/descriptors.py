"""How many files and connections this process may have open."""

import contextlib
import os
import resource

from lightning_fed.errors import ConnectionLostError
from lightning_fed.files import remedy

_WANTED = 1 << 16
"""More is of no use here, and some programs walk through every number that is allowed."""


def raise_limit() -> int:
    """Raise the soft limit of open files as far as the operating system allows; the limit from then on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _WANTED
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft < wanted:
        # macOS says that there is no hard limit and has one.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check_room(count: int) -> None:
    """Make sure that a socket with its threads can be opened: libzmq ends the whole process where it cannot.

    Args:
        count: files that it will open.

    Raises:
        ConnectionLostError: the limit of open files leaves less.
    """
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise ConnectionLostError(
                f"no socket can be opened, as {count} more open files are needed for it: {error.strerror}. "
                f"{remedy(error)}, then start again."
            ) from error
