"""``lightning-fed fit | validate | test | predict``: a site."""

import sys
from collections.abc import Sequence

from lightning_fed.cli.package import serve_arguments


def run(arguments: Sequence[str]) -> int:
    """Run a Trainer's method as the config says.

    Raises:
        FederationError: the federation cannot be joined or went wrong.
    """
    serve_arguments(arguments)
    # After the package was chosen: Lightning's own CLI is a class of it.
    from lightning_fed.cli.lightning_cli import SiteCLI

    # Lightning warns of arguments that are given beside a command line; for the process's own it wants none.
    SiteCLI(None if list(arguments) == sys.argv[1:] else list(arguments))
    return 0
