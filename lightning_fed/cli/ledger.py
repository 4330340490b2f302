"""``lightning-fed ledger``: what a site's owner does with a privacy ledger by hand."""

from collections.abc import Sequence
from pathlib import Path

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.cli.passphrases import FILE_HELP, asking
from lightning_fed.privacy.ledger import sign_ledger
from lightning_fed.transport.identity import load_identity


def run(arguments: Sequence[str]) -> int:
    """Run ``ledger sign``.

    Raises:
        FederationError: the key or the ledger cannot be read, or the ledger was edited or is another site's.
    """
    config = _parser().parse_args(list(arguments[1:]))
    options = config[config.subcommand]
    identity = load_identity(options.identity, asking(options.passphrase_file), "--identity")
    history = sign_ledger(options.ledger, identity.signing_key)
    lines = len(history.entries) - 1
    print(f"{options.ledger}  {lines} lines are signed by {identity.name}'s key now; its last hash is {history.head}")
    return 0


def _parser() -> NamesNearest:
    parser = NamesNearest(prog="lightning-fed ledger", description="Look after a privacy ledger.")
    commands = parser.add_subcommands()
    sign = NamesNearest(
        description="Vouch for a ledger that is not signed by the site's present key. Look at it first: "
        "lightning-fed report LEDGER. A site does not train with one that was not vouched for."
    )
    sign.add_argument("ledger", type=Path, help="the ledger's file")
    sign.add_argument("--identity", type=Path, required=True, help="the site's .key file")
    sign.add_argument(
        "--passphrase_file", "--passphrase-file", type=Path | None, default=None, help=f"of the key file: {FILE_HELP}"
    )
    commands.add_subcommand("sign", sign, help="vouch for a ledger that an older version or an older key has written")
    return parser
