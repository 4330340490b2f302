"""``lightning-fed keys``: identities, cards and the roster."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jsonargparse import Namespace

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.transport.identity import (
    PublicCard,
    Roster,
    load_card,
    load_identity,
    new_identity,
    write_identity,
)


def run(arguments: Sequence[str]) -> int:
    """Run ``keys new``, ``keys roster`` or ``keys show``.

    Raises:
        IdentityError: a file is missing, exists already, or holds something else.
    """
    options = _parser().parse_args(list(arguments[1:]))
    {"new": _new, "roster": _roster, "show": _show}[options.subcommand](options[options.subcommand])
    return 0


def _parser() -> NamesNearest:
    parser = NamesNearest(prog="lightning-fed keys", description="Make identities and the roster of a federation.")
    commands = parser.add_subcommands()
    new = NamesNearest(description="Make the secret key file and the public card of a site or of the coordinator.")
    new.add_argument("name", type=str, help="letters, digits, '-', '_' and '.'")
    new.add_argument("--folder", type=Path, default=Path("keys"), help="where NAME.key and NAME.pub are written")
    commands.add_subcommand("new", new, help="make a NAME.key, to be kept secret, and a NAME.pub, to be given away")
    roster = NamesNearest(description="Make the roster, which every member of the federation gets.")
    roster.add_argument("coordinator", type=Path, help="the coordinator's .pub file")
    roster.add_argument("sites", type=Path, nargs="+", help="the sites' .pub files")
    roster.add_argument("--out", type=Path, default=Path("keys/roster.yaml"), help="the file to write")
    commands.add_subcommand("roster", roster, help="bind the members' names to their public keys")
    show = NamesNearest(description="Show public keys and fingerprints; never a secret.")
    show.add_argument("file", type=Path, help="a .key, .pub or roster file")
    commands.add_subcommand("show", show, help="show what a file holds, without secrets")
    return parser


def _new(options: Namespace) -> None:
    identity = new_identity(options.name)
    secret, card = write_identity(identity, options.folder)
    print(f"{secret}  keep it here, and secret")
    print(f"{card}  give it to whoever makes the roster; its fingerprint is {identity.card.fingerprint}")


def _roster(options: Namespace) -> None:
    roster = Roster.of(load_card(options.coordinator), [load_card(path) for path in options.sites])
    roster.write(options.out)
    print(f"{options.out}  give it to every member. Compare the fingerprints with the members first, by phone;")
    print("the lines are those that a site's policy takes under members:")
    _print_cards((roster.coordinator, *roster.sites.values()))


def _show(options: Namespace) -> None:
    file: Path = options.file
    match file.suffix:
        case ".key":
            _print_cards([load_identity(file).card], keys=True)
        case ".yaml" | ".yml":
            roster = Roster.load(file)
            _print_cards((roster.coordinator, *roster.sites.values()))
        case _:
            _print_cards([load_card(file)], keys=True)


def _print_cards(cards: Iterable[PublicCard], *, keys: bool = False) -> None:
    cards = list(cards)
    width = max(len(card.name) for card in cards) + 1
    for card in cards:
        print(f"{card.name + ':':<{width}} {card.fingerprint}")
        if keys:
            print(f"{'':<{width}} CURVE   {card.curve_public.decode()}")
            print(f"{'':<{width}} Ed25519 {card.signing_public.hex()}")
