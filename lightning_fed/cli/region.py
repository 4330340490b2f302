"""``lightning-fed region``: a coordinator that is a site of the coordinator above it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from lightning_fed.cli.coordinate import add_company, add_place, own_keys, run_beside, screen_of, take_company
from lightning_fed.cli.package import serve_arguments
from lightning_fed.cli.parser import NamesNearest, converted
from lightning_fed.cli.passphrases import asking
from lightning_fed.cli.tracking import make_loggers
from lightning_fed.plan.level import Level
from lightning_fed.region.upstream import Upstream

if TYPE_CHECKING:
    from lightning_fed.lightning_api import LightningModule


def run(arguments: Sequence[str]) -> int:
    """Serve until the federation above has finished.

    Raises:
        FederationError: the plan from above, a file or an address cannot be used, or too few sites are left.
    """
    serve_arguments(arguments)
    config = read_config(arguments[1:])
    # Behind the choice of Lightning's package.
    from lightning_fed.cli.lightning_cli import Modules
    from lightning_fed.region.service import Region

    identity, roster = own_keys(config)
    upstream: Upstream = config.upstream
    region = Region(upstream, config.level, roster, config.store, asking(upstream.passphrase_file))
    model: LightningModule = Modules({"model": config.model.as_dict(), "seed_everything": False}).model
    screen = screen_of(config, region.plan)
    loggers = make_loggers(config.logger)
    if config.show != "json":
        screen.display.say(
            f"the plan {region.above.name!r} of {upstream.address} has the hash {region.above.hash}; this region's "
            f"sites get it with the region's terms, as {region.plan.hash}"
        )
        if region.plan.privacy.example:
            screen.display.say("each region counts alike above, as the plan promises privacy: see docs/regions.md")
    listening = region.coordinator(
        model, address=config.address, identity=identity, keep=config.keep, roster_file=config.roster
    )
    with listening as coordinator:
        run_beside(coordinator, config, screen, loggers)
    if config.show != "json":
        screen.display.say(f"the final global model is {config.store}/models/{coordinator.version:06d}.ckpt")
    return 0


def read_config(arguments: Sequence[str], *, exits: bool = True) -> Namespace:
    """Read ``--config FILE`` and what stands beside it; exits with a message that names a misspelt key.

    Args:
        arguments: the command line behind the command.
        exits: False raises ``jsonargparse.ArgumentError`` instead.

    Returns:
        The command's options by name; ``upstream`` is an :class:`Upstream`, ``level`` a :class:`Level`.

    Raises:
        PlanError: a term that no region can run with.
        ConfigError: a value that is none of its setting's kind.
    """
    parser = config_parser()
    parser.exit_on_error = exits
    config = parser.parse_args(list(arguments))
    config.upstream = Upstream(**config.upstream.as_dict())
    config.level = converted({"level": config.level.as_dict()}, dict[str, Level])["level"]
    take_company(config)
    return config


def config_parser() -> NamesNearest:
    """Return the parser of the command's options and of its config, which have the same names."""
    from lightning_fed.lightning_api import LightningModule

    parser = NamesNearest(prog="lightning-fed region", description="Run a region of a federation.")
    parser.add_argument("--config", action="config", help="YAML file with the keys below")
    parser.add_argument("--upstream", type=Upstream, help="the coordinator above, and who this region is there")
    parser.add_argument("--level", type=Level, default=Level(), help="what holds among this region's sites")
    add_place(parser)
    parser.add_argument(
        "--model", type=LightningModule, required=True, help="what the sites train; its weights come from above"
    )
    add_company(parser)
    return parser
