"""The options of a site that counts and trains nothing, and its part."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.cli.passphrases import FILE_HELP, asking
from lightning_fed.errors import IdentityError

if TYPE_CHECKING:
    from lightning_fed.participant.statistics import Rows


def add_site(parser: NamesNearest, policy: str) -> None:
    """Who a site is, and where the coordinator is.

    Args:
        parser: is given the options.
        policy: what the policy must say.
    """
    parser.add_argument("--config", action="config", help="YAML file with these options")
    parser.add_argument("--coordinator", type=str, required=True, help="address like tcp://coordinator.example:5790")
    parser.add_argument("--site", type=str, required=True, help="this site's name in the roster")
    parser.add_argument("--policy", type=Path, required=True, help=policy)
    parser.add_argument("--identity", type=Path | None, default=None, help="secret key file; else keys/SITE.key")
    parser.add_argument(
        "--passphrase_file", "--passphrase-file", type=Path | None, default=None, help=f"of the key file: {FILE_HELP}"
    )
    parser.add_argument("--roster", type=Path, default=Path("keys/roster.yaml"), help="the members' public keys")
    parser.add_argument(
        "--ledger", type=Path | None, default=None, help="beside which the site's logs lie; else ledgers/SITE.jsonl"
    )
    parser.add_argument("--patience_s", "--patience-s", type=float, default=600.0, help="seconds without a coordinator")


def take_part(options: Namespace, rows: "Rows") -> int:
    """Take part in the federation, and say what was counted; gives the exit code.

    Args:
        options: those of ``add_site``.
        rows: the site's.

    Raises:
        FederationError: a key or the data cannot be used, the site's policy refuses, or too few sites are there.
    """
    from lightning_fed.participant.own_roster import OwnRoster
    from lightning_fed.participant.statistics import StatisticsSite
    from lightning_fed.policy import SitePolicy

    console = Console(soft_wrap=True)
    say = partial(console.print, markup=False, highlight=False)
    policy, ledger = SitePolicy.load(options.policy), options.ledger or Path("ledgers") / f"{options.site}.jsonl"
    key = options.identity or Path("keys") / f"{options.site}.key"
    named = "--identity" if options.identity else "the default of --identity"
    own = OwnRoster.load(options.roster, key, asking(options.passphrase_file), policy, ledger, named)
    if own.identity.name != options.site:
        raise IdentityError(f"{key.name} is the identity of {own.identity.name!r}, and the site is {options.site!r}.")
    site = StatisticsSite(own, policy, rows, ledger, say)
    plan = site.take_part(site.connected(options.coordinator, options.patience_s))
    assert plan.counted is not None
    hidden = ", under masks" if plan.masking.mode == "required" else ""
    say(f"the counts of {', '.join(plan.counted.columns)} are in the sum{hidden}. The coordinator has the table.")
    return 0
