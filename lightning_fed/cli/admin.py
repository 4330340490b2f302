"""``lightning-fed admin``: the operator steers a federation by its coordinator's store."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.coordinator.extension import extend
from lightning_fed.coordinator.recorded import read_run
from lightning_fed.coordinator.steering import ask
from lightning_fed.errors import ConfigError
from lightning_fed.protocol.coordinator.steering import (
    MAX_REASON,
    Admit,
    AnyCommand,
    Drop,
    Pause,
    Resume,
    StopAfter,
)


def run(arguments: Sequence[str]) -> int:
    """Have the coordinator do one thing, or its next start, and print what came of it.

    Raises:
        StoreError: the folder is no store, or another user's.
        ConnectionLostError: no coordinator runs there.
        ConfigError: what is asked for cannot be done.
    """
    config = _parser().parse_args(list(arguments[1:]))
    read_run(config.store)
    if config.subcommand == "extend":
        version, rounds = extend(config.store, int(config.extend.rounds))
        print(
            f"the federation goes on from global model {version} to round {rounds}. Start the coordinator with the "
            "same command as before, then the sites: each checks its policy again."
        )
        return 0
    print(ask(config.store, _command(config.subcommand, config[config.subcommand])))
    return 0


def _command(action: str, options: Namespace) -> AnyCommand:
    match action:
        case "pause":
            return Pause()
        case "resume":
            return Resume()
        case "stop-after":
            return StopAfter(int(options.round))  # of the parser's own kind
        case "drop":
            if len(options.reason) > MAX_REASON:
                raise ConfigError(f"--reason has {len(options.reason)} characters; {MAX_REASON} are possible.")
            return Drop(options.site, options.reason)
        case _:
            return Admit(options.site)


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed admin",
        description="Steer a federation; only the user who runs its coordinator may, on the same machine. What is done "
        "is written into the event log.",
    )
    parser.add_argument("store", type=Path, help="the coordinator's store")
    actions = parser.add_subcommands()
    for name, what in {
        "pause": "begin no further round; one that is on is completed, and sites stay connected",
        "resume": "go on after a pause",
    }.items():
        actions.add_subcommand(name, NamesNearest(description=what), help=what)
    stop = NamesNearest(description="End after a round as after the plan's last one; the plan's last takes that back.")
    stop.add_argument("round", type=PositiveInt, help="the last round")
    actions.add_subcommand("stop-after", stop, help="end after a round as after the plan's last one")
    drop = NamesNearest(description="Leave a site out of all further rounds and end its fit.")
    drop.add_argument("site", type=str, help="its name in the roster")
    drop.add_argument("--reason", type=str, default="", help="told to the site, and written into the event log")
    actions.add_subcommand("drop", drop, help="leave a site out from now on")
    admit = NamesNearest(description="Let a site that was dropped take part again; it has to be started again.")
    admit.add_argument("site", type=str, help="its name in the roster")
    actions.add_subcommand("admit", admit, help="let a site that was dropped take part again")
    more = NamesNearest(
        description="Give a federation that is not running more rounds: a finished one after its last model, another "
        "one after its last round. The coordinator's next start goes on with them."
    )
    more.add_argument("rounds", type=PositiveInt, help="how many more")
    actions.add_subcommand("extend", more, help="give a federation that has finished more rounds")
    return parser
