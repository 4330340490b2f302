"""``lightning-fed``: finds the command's file, runs it, and turns what goes wrong into one line and an exit code."""

import os
import select
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.errors import FederationError

# A module is imported when its command is called: only the commands that train need torch and Lightning.
COMMANDS = {
    "init": ("init", "write a folder to start from: config, policy, keys, and what to do next"),
    "keys": ("keys", "make identities and the roster, show fingerprints"),
    "roster": ("roster", "sign who takes part; add, remove and rotate members, also while a federation runs"),
    "doctor": ("doctor", "look before anything runs: keys, network, plan, model, data, disk"),
    "coordinate": ("coordinate", "run the coordinator of a federation"),
    "region": ("region", "run a region: the coordinator of its sites, and a site of the coordinator above"),
    "watch": ("watch", "follow a run by its coordinator's store"),
    "status": ("watch", "show once how far a run is"),
    "admin": ("admin", "steer a running federation: pause, resume, stop-after, drop, admit, extend"),
    "data": ("data", "show what a data module would see of a folder of radiographs"),
    "statistics": ("statistics", "count what all sites have, together and under masks, before anything is trained"),
    "evaluate": ("evaluate", "measure models at each site and over all, with intervals and subgroups"),
    "report": ("report", "show what happened in a run, and what was spent of a privacy budget"),
    "audit": ("audit", "check the logs of coordinator and sites against each other, show what left a site"),
    "export": ("export", "write a global model with its model card into a folder, signed; or verify one"),
    "ledger": ("ledger", "sign a privacy ledger that an older version or an older key has written"),
    "completion": ("completion", "print a script that completes this command in a shell"),
    "simulate": ("simulate", "run a coordinator and all sites, on this machine or a cluster"),
    "fit": ("site", "train as a site (Lightning CLI)"),
    "validate": ("site", "validate a model (Lightning CLI)"),
    "test": ("site", "test a model (Lightning CLI)"),
    "predict": ("site", "predict with a model (Lightning CLI)"),
}

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it for SIGINT."""

UNREAD = 141
"""Exit code after whoever read the output has gone, as behind ``| head``; as shells have it for SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; the process's own by default.

    Returns:
        The exit code: 0, 1 after a :class:`lightning_fed.errors.FederationError`, 130 after an interruption, 141 when
        nobody reads the output any more.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        _explain(arguments)
    # Classes named in a config are looked up where the command is called, before anything that is installed.
    sys.path.insert(0, str(Path.cwd()))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = int(import_module(f"lightning_fed.cli.{COMMANDS[arguments[0]][0]}").run(arguments))
        sys.stdout.flush()  # or what a pipe does not take would be an error nobody can answer, when Python ends
        return code
    except BrokenPipeError:
        if not _output_is_broken():
            raise  # of a socket
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"lightning-fed {arguments[0]}: stopped, as nobody reads its output any more.", file=sys.stderr)
        return UNREAD
    except FederationError as error:
        print(f"lightning-fed {arguments[0]}: {error}", file=sys.stderr)
        return 1
    except SystemExit as end:
        # Lightning makes the exit code 1 of an interruption.
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        return _interrupted(arguments[0])
    except KeyboardInterrupt:
        return _interrupted(arguments[0])


def _output_is_broken() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _interrupted(command: str) -> int:
    print(f"lightning-fed {command}: interrupted.", file=sys.stderr)
    return INTERRUPTED


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _explain(arguments: list[str]) -> NoReturn:
    """Print help, the version or what is wrong with the command line, and exit."""
    parser = NamesNearest(
        prog="lightning-fed",
        description="Federated training for PyTorch Lightning. Each command has a --help of its own.",
        version=_version() if arguments[:1] == ["--version"] else "",
    )
    commands = parser.add_subcommands()
    for name, (_, description) in COMMANDS.items():
        commands.add_subcommand(name, NamesNearest(description=description), help=description)
    parser.parse_args(arguments or ["--help"])
    raise AssertionError("a known command does not come here")


def _version() -> str:
    from importlib.metadata import version

    return version("lightning_fed")


if __name__ == "__main__":
    sys.exit(main())
