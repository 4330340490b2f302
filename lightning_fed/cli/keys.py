"""``lightning-fed keys``: identities, cards and the roster."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jsonargparse import Namespace

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.cli.passphrases import FILE_HELP, asking, new_passphrase
from lightning_fed.transport.card import PublicCard, load_card
from lightning_fed.transport.identity import load_identity, new_identity, rewrite_identity, write_identity
from lightning_fed.transport.roster import Roster


def run(arguments: Sequence[str]) -> int:
    """Run ``keys new``, ``keys roster``, ``keys show``, ``keys lock`` or ``keys unlock``.

    Raises:
        IdentityError: a file is missing, exists already, or holds something else.
    """
    options = _parser().parse_args(list(arguments[1:]))
    commands = {"new": _new, "roster": _roster, "show": _show, "lock": _lock, "unlock": _unlock}
    commands[options.subcommand](options[options.subcommand])
    return 0


def _parser() -> NamesNearest:
    parser = NamesNearest(prog="lightning-fed keys", description="Make identities and the roster of a federation.")
    commands = parser.add_subcommands()
    new = NamesNearest(description="Make the secret key file and the public card of a site or of the coordinator.")
    new.add_argument("name", type=str, help="letters, digits, '-', '_' and '.'")
    new.add_argument("--folder", type=Path, default=Path("keys"), help="where NAME.key and NAME.pub are written")
    new.add_argument("--lock", action="store_true", help="lock NAME.key with a passphrase")
    _add_passphrase_file(new)
    commands.add_subcommand("new", new, help="make a NAME.key, to be kept secret, and a NAME.pub, to be given away")
    roster = NamesNearest(description="Make the roster, which every member of the federation gets.")
    roster.add_argument("coordinator", type=Path, help="the coordinator's .pub file")
    roster.add_argument("sites", type=Path, nargs="+", help="the sites' .pub files")
    roster.add_argument("--out", type=Path, default=Path("keys/roster.yaml"), help="the file to write")
    commands.add_subcommand("roster", roster, help="bind the members' names to their public keys")
    show = NamesNearest(description="Show public keys and fingerprints; never a secret.")
    show.add_argument("file", type=Path, help="a .key, .pub or roster file")
    _add_passphrase_file(show)
    commands.add_subcommand("show", show, help="show what a file holds, without secrets")
    lock = NamesNearest(description="Lock a key file with a passphrase, or with another one.")
    lock.add_argument("file", type=Path, help="the .key file")
    lock.add_argument(
        "--old_file", "--old-file", type=Path | None, default=None, help="file with its present passphrase"
    )
    _add_passphrase_file(lock)
    commands.add_subcommand("lock", lock, help="lock a key file with a passphrase")
    unlock = NamesNearest(description="Take the passphrase off a key file.")
    unlock.add_argument("file", type=Path, help="the .key file")
    _add_passphrase_file(unlock)
    commands.add_subcommand("unlock", unlock, help="take the passphrase off a key file")
    return parser


def _add_passphrase_file(parser: NamesNearest) -> None:
    parser.add_argument("--passphrase_file", "--passphrase-file", type=Path | None, default=None, help=FILE_HELP)


def _new(options: Namespace) -> None:
    identity = new_identity(options.name)
    passphrase = new_passphrase(options.passphrase_file) if options.lock or options.passphrase_file else None
    secret, card = write_identity(identity, options.folder, passphrase)
    print(f"{secret}  keep it here, and secret")
    print(f"{card}  give it to whoever makes the roster; its fingerprint is {identity.card.fingerprint}")


def _roster(options: Namespace) -> None:
    roster = Roster.of(load_card(options.coordinator), [load_card(path) for path in options.sites])
    roster.write(options.out)
    print(f"{options.out}  the coordinator is {roster.coordinator.name}, the sites are {', '.join(roster.sites)}")
    print(f"{options.out}  give it to every member. Compare the fingerprints with the members first, by phone;")
    print("the lines are those that a site's policy takes under members:")
    _print_cards((roster.coordinator, *roster.sites.values()))


def _lock(options: Namespace) -> None:
    identity = load_identity(options.file, asking(options.old_file), "the command line")
    rewrite_identity(identity, options.file, new_passphrase(options.passphrase_file))
    print(f"{options.file}  is locked with the passphrase; without it these keys are lost")


def _unlock(options: Namespace) -> None:
    rewrite_identity(
        load_identity(options.file, asking(options.passphrase_file), "the command line"), options.file, None
    )
    print(f"{options.file}  is not locked any more; whoever reads it can speak for its owner")


def _show(options: Namespace) -> None:
    file: Path = options.file
    match file.suffix:
        case ".key":
            _print_cards([load_identity(file, asking(options.passphrase_file), "the command line").card], keys=True)
        case ".yaml" | ".yml":
            roster = Roster.load(file)
            if roster.consortium:
                # As comments, so that all of it can go into a policy.
                print(f"# version {roster.version}, signed by {roster.consortium.name}, whose fingerprint is")
                print(f"# {roster.consortium.fingerprint}")
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
