"""``lightning-fed roster``: the consortium signs who takes part; nothing here needs a network."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.cli.passphrases import FILE_HELP, asking
from lightning_fed.errors import IdentityError, did_you_mean
from lightning_fed.transport.card import PublicCard, load_card
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster


def run(arguments: Sequence[str]) -> int:
    """Run ``roster sign``, ``roster add``, ``roster remove`` or ``roster rotate``.

    Raises:
        IdentityError: a file is missing or holds something else, or the change makes no sense.
        StoreError: the roster cannot be written; the older one stays.
    """
    config = _parser().parse_args(list(arguments[1:]))
    options = config[config.subcommand]
    before = Roster.load(options.roster)
    cards = {card.name: card for card in (before.coordinator, *before.sites.values())}
    changed = {"sign": _sign, "add": _add, "remove": _remove, "rotate": _rotate}[config.subcommand](cards, options)
    coordinator = changed.pop(before.coordinator.name)
    consortium = load_identity(options.key, asking(options.passphrase_file), "--key")
    if before.consortium and before.consortium.signing_public != consortium.card.signing_public:
        raise IdentityError(
            f"{options.roster} is signed by {before.consortium.name!r}, of fingerprint "
            f"{before.consortium.fingerprint}, and {options.key} is another key, which no member would take a change "
            "from. Name the consortium's key file (--key); to begin with another one, make the roster anew: "
            "lightning-fed keys roster"
        )
    after = Roster.of(coordinator, changed.values()).signed_by(consortium, before.version + 1)
    after.write(options.out or options.roster)
    _say(before, after, options.out or options.roster)
    return 0


def _say(before: Roster, after: Roster, path: Path) -> None:
    assert after.consortium is not None
    print(f"{path}  version {after.version}, signed by {after.consortium.name}: {after.consortium.fingerprint}")
    everybody = {card.name: card for card in (after.coordinator, *after.sites.values())}
    for what, names in before.changes(after).items():
        for name in names:
            print(f"{what:<8} {name}  {everybody[name].fingerprint if name in everybody else ''}".rstrip())
    if before.consortium is None:
        print("Give it to every member, once. Newer ones they get from the coordinator.")
    else:
        print("Put it in the place of the coordinator's roster, which hands it to the sites. Nobody is started again.")


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed roster",
        description="Change who takes part in a federation, also while it runs. Each change is a new version of the "
        "roster, signed with the consortium's key, which is kept offline and is no member's.",
    )
    commands = parser.add_subcommands()
    for name, text, what, type_, help_ in (
        ("sign", "Sign a roster that nobody has signed, or the same members once more.", "", Path, ""),
        ("add", "Add sites.", "cards", Path, "the new sites' .pub files"),
        ("remove", "Remove sites for good.", "names", str, "the sites' names"),
        ("rotate", "Give members other keys.", "cards", Path, "the .pub files of the members' new keys"),
    ):
        command = NamesNearest(description=text)
        command.add_argument("roster", type=Path, help="the newest roster")
        if what:
            command.add_argument(what, type=type_, nargs="+", help=help_)
        command.add_argument("--key", type=Path, required=True, help="the consortium's .key file")
        command.add_argument("--out", type=Path | None, default=None, help="where to write; the same file if not given")
        command.add_argument(
            "--passphrase_file", "--passphrase-file", type=Path | None, default=None, help=f"of the key: {FILE_HELP}"
        )
        commands.add_subcommand(name, command, help=text)
    return parser


_Cards = dict[str, PublicCard]


def _sign(cards: _Cards, options: Namespace) -> _Cards:
    return cards


def _add(cards: _Cards, options: Namespace) -> _Cards:
    for card in map(load_card, options.cards):
        if card.name in cards:
            raise IdentityError(
                f"{card.name!r} is in {options.roster} already. For new keys of the same member: lightning-fed roster "
                "rotate"
            )
        cards[card.name] = card
    return cards


def _remove(cards: _Cards, options: Namespace) -> _Cards:
    coordinator = next(iter(cards))
    for name in options.names:
        if name == coordinator:
            raise IdentityError(f"{name!r} is the coordinator, without whom there is no federation. Name sites.")
        _check_member(name, cards, options.roster)
        del cards[name]
    return cards


def _rotate(cards: _Cards, options: Namespace) -> _Cards:
    for card in map(load_card, options.cards):
        _check_member(card.name, cards, options.roster)
        if cards[card.name] == card:
            raise IdentityError(f"{card.name!r} has these keys in {options.roster} already. Name its new .pub file.")
        cards[card.name] = card
    return cards


def _check_member(name: str, cards: _Cards, roster: Path) -> None:
    if name not in cards:
        raise IdentityError(f"{name!r} is not in {roster}, which names {sorted(cards)}.{did_you_mean(name, cards)}")
