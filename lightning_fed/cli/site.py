"""``lightning-fed fit | validate | test | predict``: a site."""

import sys
from collections.abc import Sequence

from lightning_fed.cli.lightning_cli import SiteCLI


def run(arguments: Sequence[str]) -> int:
    """Run a Trainer's method as the config says.

    Raises:
        FederationError: the federation cannot be joined or went wrong.
    """
    # Lightning warns of arguments that are given beside a command line; for the process's own it wants none.
    SiteCLI(None if list(arguments) == sys.argv[1:] else list(arguments))
    return 0
