"""``lightning-fed audit``: whether the logs of a federation hold, and what has left a site."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path

import msgspec
from rich.filesize import decimal

from lightning_fed.audit.checks import Chain, Checked, Fault, check, check_heads, check_held, heads_in
from lightning_fed.audit.lines import Name
from lightning_fed.cli.parser import NamesNearest
from lightning_fed.errors import StoreError, printable
from lightning_fed.transport.roster import Roster

_EVENTS, _SENT = "events.jsonl", "*.sent"
"""The coordinator's log in its store; a site's, beside its privacy ledger."""


@dataclass(frozen=True)
class Log:
    """A log that was read.

    Attributes:
        path: its file.
        content: all of it.
        checked: what was found in it.
    """

    path: Path
    content: bytes
    checked: Checked

    @property
    def names(self) -> set[Name]:
        """Which logs its chains are of: of one, unless it was put together."""
        return {chain.log for chain in self.checked.chains}

    @property
    def owner(self) -> str:
        """Whose it is, in words."""
        last = self.checked.chains[-1].start if self.checked.chains else None
        return "nobody" if last is None else "the coordinator" if last.log == "coordinator" else printable(last.of)


def run(arguments: Sequence[str]) -> int:
    """Run ``audit verify`` or ``audit show``.

    Returns:
        0, or 1 if something does not hold.

    Raises:
        FederationError: a file cannot be read, or is no such log.
    """
    config = _parser().parse_args(list(arguments[1:]))
    options = config[config.subcommand]
    if config.subcommand == "show":
        return max(_show(log) for log in _logs(options.folder, (_SENT,)))
    logs = [log for path in options.logs for log in _logs(path, (_EVENTS, _SENT))]
    return _verify(logs, [Roster.load(Path(path)) for path in options.roster])


def _parser() -> NamesNearest:
    parser = NamesNearest(prog="lightning-fed audit", description="Check logs, and show what has left a site.")
    commands = parser.add_subcommands()
    verify = NamesNearest(
        description="Check that no line of a log was changed, taken out or put in. With a coordinator's log and a "
        "site's, each is checked against what the other was told of it meanwhile: only that shows that the end of a "
        "log was cut off, or that its own writer has written it anew."
    )
    verify.add_argument("logs", type=Path, nargs="+", help="the coordinator's store, a site's folder, or a log's file")
    verify.add_argument(
        "--roster",
        action="append",  # of text: jsonargparse would make one Path of the whole list
        default=[],
        help="a roster, to see that the logs are signed by its members; an older one, too, for a site that has left",
    )
    commands.add_subcommand("verify", verify, help="name the first line of a log that does not hold")
    show = NamesNearest(description="Show all that has left a site, line by line, and check that the log holds.")
    show.add_argument("folder", type=Path, help="the site's folder, or the log's file (ledgers/NAME.jsonl.sent)")
    commands.add_subcommand("show", show, help="show what has left a site")
    return parser


def _logs(path: Path, patterns: Sequence[str]) -> list[Log]:
    if path.is_dir():
        files = [file for name in patterns for where in (path, path / "ledgers") for file in sorted(where.glob(name))]
        if not files:
            raise StoreError(
                f"{path} holds no audit log: {' or '.join(patterns)}, there or in its folder ledgers. Name the "
                "coordinator's store, the folder that a site trains in, or the file."
            )
    else:
        files = [path]
    return [_log(file) for file in files]


def _log(path: Path) -> Log:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"the log {path} cannot be read: {error.strerror}. Name another, or mend it.") from error
    return Log(path, content, check(content))


def _verify(logs: Sequence[Log], rosters: Sequence[Roster]) -> int:
    faults = [_verify_alone(log, rosters) for log in logs]
    if any(faults):
        return 1
    disagreeing = [_disagree(log, other) for log, other in combinations(logs, 2)]
    if any(disagreeing):
        return 1
    pairs = [(log, other) for log, other in permutations(logs, 2) if _kinds(log) != _kinds(other)]
    if not pairs:
        print(
            "Whether an end was cut off, or all of it written anew by its own writer, only the other side's log can "
            "show: name a coordinator's and a site's."
        )
    misfits = [_verify_against(log, other) for log, other in pairs]
    return int(any(misfits))


def _kinds(log: Log) -> set[str]:
    return {name.kind for name in log.names}


def _verify_alone(log: Log, rosters: Sequence[Roster]) -> bool:
    """Say what there is to say of a log in itself; whether something does not hold."""
    checked = log.checked
    fault = checked.fault or (_stranger(log, rosters) if rosters else None) or check_held(heads_in(log.content))
    if fault:
        return _say(log, fault)
    if not checked.lines:
        print(f"{log.path} holds no line of a log.")
        return True
    if not checked.chains:
        print(f"{log.path}: none of its {checked.lines} lines is chained. An older version has written it.")
        return False
    print(f"{log.path}: all {checked.lines} lines hold.")
    if checked.chains[0].first > 1:
        last = checked.chains[0].first - 1
        print(f"  lines 1 to {last} are of an older version: not chained, and as they were when line {last + 1} came")
    ends = [chain.first - 1 for chain in checked.chains[1:]] + [checked.lines]
    for chain, end in zip(checked.chains, ends, strict=True):
        print(f"  lines {chain.first} to {end} are {_words(chain)}")
    torn = len(log.content) - checked.sound
    if torn:
        print(f"  {torn} bytes at its end are no whole line: it is being written, or a crash has cut it short")
    return False


def _words(chain: Chain) -> str:
    start = chain.start
    whose = (
        f"run {printable(start.of)} at its coordinator" if start.log == "coordinator" else f"site {printable(start.of)}"
    )
    signed = f"signed by the key {printable(start.key)}" if start.key else "not signed by anybody"
    return f"of {whose}, {signed} (begun as {printable(start.reason)})"


def _stranger(log: Log, rosters: Sequence[Roster]) -> Fault | None:
    if not log.checked.chains:
        return Fault(1, "is signed by nobody, and no line is")
    last = log.checked.chains[-1]
    if last.start.log == "coordinator":
        cards = [roster.coordinator for roster in rosters]
    else:
        cards = [roster.sites[last.start.of] for roster in rosters if last.start.of in roster.sites]
    if not cards:
        why = f"begins a chain of site {last.start.of!r}, which the roster does not name. If it has left since, name"
        return Fault(last.first, f"{why} an older roster that does, too (--roster)")
    if last.start.key not in [card.signing_public.hex() for card in cards]:
        return Fault(last.first, f"begins a chain with the key {last.start.key or 'of nobody'}, not the roster's")
    return None


def _verify_against(log: Log, other: Log) -> bool:
    """Hold a log against what another one's writer was told of it; whether something does not fit."""
    held = [one for one in heads_in(other.content) if one.log in log.names]
    if not held:
        print(f"{log.path}: {other.path} holds no head of it, and says nothing about it.")
        return True
    fault = check_heads(log.checked, held, other.owner)
    if fault:
        return _say(log, fault)
    last = max(one.head.line for one in held)
    left = log.checked.lines - last
    after = f"; for the {left} lines after it none speaks yet" if left else ""
    print(f"{log.path}: fits the {len(held)} heads that {other.owner} was given, the last of line {last}{after}.")
    return False


def _disagree(log: Log, other: Log) -> bool:
    """Say whether two holders were given different heads of the same line: its writer has shown each another log."""
    given = {(one.log, one.head.line): one for one in heads_in(log.content)}
    for one in heads_in(other.content):
        first = given.get((one.log, one.head.line), one)
        if first.head.digest != one.head.digest:
            why = (
                f"holds another head of line {one.head.line} of the {one.log.kind}'s log {one.log.of!r} than line "
                f"{first.line} of {log.path}, and its writer has signed both: it has shown each another log"
            )
            return _say(other, Fault(one.line, why))
    return False


def _say(log: Log, fault: Fault) -> bool:
    print(f"{log.path}: line {fault.line} does not hold: it {printable(fault.why)}.")
    return True


class _Shown(msgspec.Struct):
    """What of a line is shown."""

    event: str
    time: str = ""
    message: str = ""
    step: str = ""
    purpose: str = ""
    stream: str = ""
    round: int | None = None
    bytes: int | None = None
    sha256: str = ""
    chunks: int = 0
    whole: bool = True
    epsilon: dict[str, float] = {}
    coordinator: str = ""
    address: str = ""
    run: str = ""
    plan_hash: str = ""
    line: int = 0
    reason: str = ""

    @property
    def what(self) -> str:
        """In words; what has not left the site is in brackets."""
        match self:
            case _Shown(event="sent", message="Masking"):
                return f"Masking, {self.step} ({self.purpose})"
            case _Shown(event="sent", message="Chunk"):
                return f"{self.chunks} Chunk of {self.stream}{'' if self.whole else ', cut off'}"
            case _Shown(event="sent"):
                return f"{self.message} of {self.stream}" if self.stream else self.message
            case _Shown(event="welcomed"):
                return f"(run {self.run} of {self.coordinator!r} at {self.address}, plan {self.plan_hash[:16]})"
            case _Shown(event="log_head"):
                return f"(the coordinator's log had {self.line} lines)"
        return f"({self.event}: {self.reason})"


def _show(log: Log) -> int:
    print(f"{'line':>6}  {'time (UTC)':<19}  {'what':<44}  {'round':>5}  {'bytes':>12}  {'SHA-256':<16}  epsilon")
    sent: Counter[str] = Counter()
    for number, data in enumerate(log.content.split(b"\n")[:-1], 1):
        try:
            shown = msgspec.json.decode(data, type=_Shown)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            print(f"{number:>6}  (not to be read)")
            continue
        if shown.event == "sent":
            sent[shown.message] += shown.bytes or 0
        print(_row(number, shown))
    parts = [f"; {kind} {decimal(total)}" for kind, total in sent.most_common()]
    print(printable(f"left the site: {decimal(sum(sent.values()))}{''.join(parts)}"))
    return int(_verify_alone(log, ()))


def _row(number: int, shown: _Shown) -> str:
    round, size = ("" if value is None else value for value in (shown.round, shown.bytes))
    epsilon = ", ".join(f"{unit} {spent:.3f}" for unit, spent in shown.epsilon.items())
    time = shown.time[:19].replace("T", " ")
    row = f"{number:>6}  {time:<19}  {shown.what:<44}  {round:>5}  {size:>12}  {shown.sha256[:16]:<16}  {epsilon}"
    return printable(row.rstrip())
