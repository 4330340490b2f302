"""How many files and connections this process may have open."""

import contextlib
import resource

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
