"""``lightning-fed coordinate``: the coordinator of one federation."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.logging import RichHandler

from lightning_fed.cli.package import serve_arguments
from lightning_fed.cli.parser import NamesNearest, converted, without_choices
from lightning_fed.cli.passphrases import FILE_HELP, asking
from lightning_fed.cli.prometheus import Endpoint, RunMetrics
from lightning_fed.cli.tracking import Made, Tracking, make_loggers
from lightning_fed.cli.watch import SHOW_HELP, Following, Screen, Show
from lightning_fed.coordinator.loading import load_weights
from lightning_fed.coordinator.retention import Keep
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import ConfigError, IdentityError
from lightning_fed.plan import FederationPlan
from lightning_fed.transport.identity import Identity, load_identity
from lightning_fed.transport.roster import Roster

if TYPE_CHECKING:
    from lightning_fed.lightning_api import LightningModule


def run(arguments: Sequence[str]) -> int:
    """Serve until the federation has finished.

    Raises:
        FederationError: the plan, a file or the address cannot be used, or too few sites are left.
    """
    serve_arguments(arguments)
    config = read_config(arguments[1:])
    serve(config)
    return 0


def serve(config: Namespace) -> None:
    """Serve as a config says until the federation has finished.

    Args:
        config: see ``read_config``.

    Raises:
        FederationError: the plan, a file or the address cannot be used, or too few sites are left.
    """
    # Before the model is made, which can take long.
    identity, roster = own_keys(config)
    screen = screen_of(config, config.plan)
    loggers = make_loggers(config.logger)
    coordinator = Coordinator(
        config.plan,
        address=config.address,
        identity=identity,
        roster=roster,
        store=config.store,
        initial=initial_of(config),
        keep=config.keep,
        roster_file=config.roster,
    )
    run_beside(coordinator, config, screen, loggers)
    if config.show != "json" and not config.plan.counted:
        screen.display.say(f"the final global model is {config.store}/models/{coordinator.version:06d}.ckpt")


def own_keys(config: Namespace) -> tuple[Identity, Roster]:
    """The coordinator's keys and the roster that names them.

    Raises:
        IdentityError: a file is missing, is damaged, or does not fit the other.
    """
    identity = load_identity(config.identity, asking(config.passphrase_file))
    roster = Roster.load(config.roster)
    roster.check_own(identity.card, config.roster)
    if identity.name != roster.coordinator.name:
        raise IdentityError(
            f"{config.identity} is the identity of {identity.name!r}, and the roster's coordinator is "
            f"{roster.coordinator.name!r}. Name its key file (identity); or, if the roster is wrong, make it anew: "
            "lightning-fed keys roster takes the coordinator's .pub file first."
        )
    return identity, roster


def screen_of(config: Namespace, plan: FederationPlan) -> Screen:
    """What shows the run to whoever sits at the terminal."""
    screen = Screen(config.store, plan.metrics, config.show)
    _warn_on(screen, config.show)
    return screen


def run_beside(coordinator: Coordinator, config: Namespace, screen: Screen, loggers: list[Made]) -> None:
    """Serve until the federation has finished, and meanwhile show it, track it and export its metrics.

    Raises:
        FederationError: as ``Coordinator.run``.
    """
    if config.show != "json":
        screen.display.say(f"listening at {coordinator.address}; the store is {config.store}")
    with ExitStack() as beside:
        if config.metrics_port is not None:
            metrics = RunMetrics(config.store, lambda: coordinator.turned_at)
            endpoint = beside.enter_context(Endpoint(metrics, config.metrics_host, config.metrics_port))
            if config.show != "json":
                screen.display.say(f"metrics at {endpoint.url}")
        beside.enter_context(Following(screen))
        beside.enter_context(Tracking(loggers, config.store))
        coordinator.run()


def _warn_on(screen: Screen, show: Show | None) -> None:
    """Have warnings shown, above the table where there is one: imported packages have set up logging for themselves."""
    console = screen.display.console
    if console.is_terminal and show in (None, "table"):
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%X")
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def read_config(
    arguments: Sequence[str], *, exits: bool = True, program: str = "lightning-fed coordinate", counts: bool = False
) -> Namespace:
    """Read ``--config FILE`` and what stands beside it; exits with a message that names a misspelt key.

    Args:
        arguments: the command line behind the command.
        exits: False raises ``jsonargparse.ArgumentError`` instead.
        program: how the command is called.
        counts: whether the plan only counts, and so has one round and a ring in which counts are exact.

    Returns:
        The command's options by name; ``plan`` is a :class:`FederationPlan`, ``logger`` a list.

    Raises:
        PlanError: a value of the plan that no federation can run with.
        ConfigError: a value that is none of its setting's kind.
    """
    parser = config_parser(program)
    if counts:
        parser.set_defaults({"plan.rounds": 1, "plan.masking.bits": 32})
    parser.exit_on_error = exits
    config = parser.parse_args(list(arguments))
    config.plan = converted({"plan": config.plan.as_dict()}, dict[str, FederationPlan])["plan"]
    take_company(config)
    return config


def take_company(config: Namespace) -> None:
    """Read what ``add_company`` added.

    Raises:
        ConfigError: a value that is none of its setting's kind.
    """
    if config.keep is not None:
        config.keep = converted({"keep": config.keep.as_dict()}, dict[str, Keep])["keep"]
    config.logger = config.logger if isinstance(config.logger, list) else [config.logger] if config.logger else []


def initial_of(config: Namespace) -> "LightningModule | None":
    """The module whose weights are the initial global model; None if the config names none.

    Raises:
        ConfigError: there is a checkpoint and no module.
        FederationError: the checkpoint is not the module's.
    """
    if config.model is None:
        if config.checkpoint is not None:
            raise ConfigError(
                f"checkpoint = {config.checkpoint} needs model: {{class_path: ...}}, the module that it belongs to."
            )
        return None
    from lightning_fed.cli.lightning_cli import Modules

    seed = False if config.seed is None else config.seed
    model: LightningModule = Modules({"model": config.model.as_dict(), "seed_everything": seed}).model
    if config.checkpoint is not None:
        load_weights(model, config.checkpoint)
    return model


def config_parser(program: str = "lightning-fed coordinate") -> NamesNearest:
    """Return the parser of the command's options and of its config, which have the same names."""
    from lightning_fed.lightning_api import LightningModule

    parser = NamesNearest(prog=program, description="Run the coordinator of a federation.")
    parser.add_argument("--config", action="config", help="YAML file with the keys below")
    add_place(parser)
    parser.add_argument("--plan", type=FederationPlan, default=FederationPlan(), help="what all sites agree on")
    parser.add_argument(
        "--model",
        type=LightningModule | None,
        default=None,
        help="module whose weights are the initial global model; without one a site is asked for its untrained one, "
        "which sites whose policy requires masks do not give",
    )
    parser.add_argument(
        "--checkpoint", type=Path | None, default=None, help="Lightning .ckpt with the initial weights of the model"
    )
    add_company(parser)
    parser.add_argument("--seed", type=int | None, default=None, help="seed of the model's random weights")
    without_choices(parser)
    return parser


def add_place(parser: NamesNearest) -> None:
    """Where a coordinator listens, who it is, and what it keeps."""
    parser.add_argument("--address", type=str, default="tcp://127.0.0.1:5790", help="where to listen")
    parser.add_argument("--identity", type=Path, default=Path("keys/coordinator.key"), help="own secret key file")
    parser.add_argument(
        "--passphrase_file", "--passphrase-file", type=Path | None, default=None, help=f"of the key file: {FILE_HELP}"
    )
    parser.add_argument("--roster", type=Path, default=Path("keys/roster.yaml"), help="the members' public keys")
    parser.add_argument("--store", type=Path, required=True, help="folder of the global models and the event log")


def add_company(parser: NamesNearest) -> None:
    """What runs beside a coordinator, and what it does with what it has."""
    from lightning_fed.lightning_api import Logger

    parser.add_argument(
        "--logger",
        type=Logger | list[Logger] | None,
        default=None,
        help="Lightning's loggers for experiment tracking, fed with each round",
    )
    parser.add_argument(
        "--metrics_port", "--metrics-port", type=int | None, default=None, help="serve metrics for Prometheus there"
    )
    parser.add_argument(
        "--metrics_host", "--metrics-host", type=str, default="127.0.0.1", help="where; anybody who reaches it can read"
    )
    parser.add_argument(
        "--keep",
        type=Keep | None,
        default=None,
        help="which global models stay in the store: {last: 3, best: true, every: 10}; all if not given",
    )
    parser.add_argument("--show", type=Show | None, default=None, help=SHOW_HELP)
