"""Experiment tracking of ``coordinate``: Lightning's own loggers, fed from the event log.

The coordinator writes its log and knows of no logger. Each logger has a thread of its own that reads the log, so that
one which waits for its server, or fails, keeps neither the federation nor another logger waiting.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from jsonargparse import Namespace

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.coordinator.recorded import LEDGER, read_run
from lightning_fed.errors import ConfigError, StoreError, printable
from lightning_fed.files import remove_torn, write_whole
from lightning_fed.privacy.history import History, read_history
from lightning_fed.privacy.ledger_lines import Charged
from lightning_fed.privacy.spending import Spent
from lightning_fed.simulation.progress import Event, EventTail

if TYPE_CHECKING:  # a logger may be of either package
    from lightning_fed.lightning_api import Logger

_log = logging.getLogger(__name__)

_LOOK_S = 0.2
"""How often the log is looked at."""

_LAST_WORDS_S = 30.0
"""How long a coordinator that ends waits for a logger that has not taken everything yet."""


class Made(NamedTuple):
    """A logger, and how its config made it."""

    logger: "Logger"
    class_path: str
    key: str
    """Another one for another config."""
    begins_anew: bool
    """Whether it removes at its start what it has written before."""


def make_loggers(configs: Sequence[Namespace]) -> list[Made]:
    """Make the loggers that a config names; one that cannot be made now is named in a warning and left out.

    Args:
        configs: of each its ``class_path`` and ``init_args``, as the command's parser has taken them.

    Raises:
        ConfigError: a logger's package is not installed, or it does not take its arguments.
    """
    from lightning_fed.lightning_api import CSVLogger, Logger, rank_zero_only

    # Loggers are silent where Lightning takes the process for one of several, as under srun. A coordinator is alone.
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    parser = NamesNearest(prog="lightning-fed coordinate", exit_on_error=False)
    parser.add_argument("--logger", type=Logger)
    made = []
    for config in configs:
        settings = parser.parse_object({"logger": config.as_dict()})
        try:
            # An older name of the same, in jsonargparse before 4.49.
            instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
            logger = instantiate(settings).logger
        except (ImportError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the logger {config.class_path} cannot be made: {error.__cause__ or error}. Install what it needs, "
                "change its init_args, or leave it out."
            ) from error
        except Exception as error:  # noqa: BLE001 - such as a server that is down: no reason not to begin
            _warn(config.class_path, error)
            continue
        key = hashlib.sha256(parser.dump(settings, format="json", skip_default=True).encode()).hexdigest()[:16]
        anew = isinstance(logger, CSVLogger) and config.init_args.get("version") is not None
        made.append(Made(logger, config.class_path, key, anew))
    return made


def _warn(name: str, error: BaseException) -> None:
    _log.warning(
        "the logger %s has failed and is left out from now on: %s: %s. The federation goes on. Mend what is the matter "
        "and start the coordinator again: what the logger lacks is then logged.",
        name,
        type(error).__name__,
        printable(str(error)),
    )


MARKS = "loggers"
"""In the store's folder: how far each logger has come; a name is a hash of the logger's config."""


class Mark(msgspec.Struct, frozen=True):
    """How far a logger has come in the event log, as it is stored beside it.

    Args:
        logger: the logger's class path.
        events: how many events of the log it was given, or did not need.
    """

    logger: str
    events: int = 0


class SiteEpsilon:
    """Reads what the federation's own ledger has spent about whole sites, round by round.

    Args:
        path: the ledger; written before the round that it pays for is done.
        delta: the plan's.
    """

    def __init__(self, path: Path, delta: float) -> None:
        self._path, self._delta = path, delta
        self._spent = Spent()
        self._counted = 0
        self._history, self._size = History(), -1

    def up_to(self, round: int) -> dict[str, float]:
        """Epsilon after a round, not before an earlier one that was asked for: against an outsider, and a member.

        A site that takes part knows its own share of distributed noise; the two are equal where there are no shares.

        Raises:
            LedgerError: the ledger cannot be read or was edited.
        """
        size = self._path.stat().st_size if self._path.exists() else -1
        if size != self._size or size < 0:
            self._history, self._size = read_history(self._path), size
        for entry in self._history.entries[self._counted :]:
            if isinstance(entry, Charged) and entry.release.round > round:
                break
            self._spent.add(self._history.costs_of(entry))
            self._counted += 1
        return {
            "federation/epsilon": self._spent.epsilon("site", self._delta, "outsider"),
            "federation/epsilon_member": self._spent.epsilon("site", self._delta, "member"),
        }


class Tracked:
    """One logger in its thread.

    What a logger was given is marked before it is given, in a file of the store: after a crash a value may be missing,
    and none is there twice.

    Args:
        made: the logger.
        store: the coordinator's folder.

    Raises:
        StoreError: the folder is no store, or the mark cannot be read.
    """

    def __init__(self, made: Made, store: Path) -> None:
        self.name = made.class_path
        self._logger = made.logger
        self._mark = store / MARKS / made.key
        # What it has written before is gone, so nothing will be there twice.
        self._given = 0 if made.begins_anew else _read_mark(self._mark)
        self._tail, self._taken = EventTail(store / "events.jsonl"), 0
        self._waiting: deque[tuple[int, Event]] = deque()
        self._measured: set[int] = set()
        run, plan = read_run(store)
        self._settings = {"run": run, "plan": plan}
        site = (plan.get("privacy") or {}).get("site")
        self._epsilon = SiteEpsilon(store / LEDGER, site["delta"]) if site else None
        self._ending = threading.Event()
        self._status = "failed"
        # A logger that never comes back must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"logger {self.name}", daemon=True)

    def start(self) -> None:
        """Begin to follow the log."""
        self._thread.start()

    def end(self, status: str) -> None:
        """Take the last events, tell the logger how it ended (``success`` or ``failed``), and stop; does not wait."""
        self._status = status
        self._ending.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is done, or was within ``timeout_s``."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._logger.log_hyperparams(self._settings)
            self._logger.save()
            ending = False
            while not ending:
                ending = self._ending.wait(_LOOK_S)
                self._look()
            self._logger.finalize(self._status)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - not the coordinator's
            _warn(self.name, error)

    def _look(self) -> None:
        try:
            events = self._tail.new()
        except OSError:
            return  # no file can be opened; later
        for event in events:
            self._taken += 1
            if self._brings_values(event) and self._taken > self._given:
                self._waiting.append((self._taken, event))
        while self._waiting:
            number, event = self._waiting[0]
            try:
                write_whole(self._mark, msgspec.json.encode(Mark(self.name, number)))
            except StoreError:
                return  # the disk takes nothing: the coordinator says so and stands still; later
            self._waiting.popleft()
            step, values = self._values_of(event)
            self._logger.log_metrics(values, step)
            self._logger.save()

    def _brings_values(self, event: Event) -> bool:
        match event:
            case {"event": "round_finished", "round": int(), "participants": list()}:
                return True
            case {"event": "metrics", "version": int(version), "metrics": dict(metrics)} if metrics:
                # Sites that come back may report of the same model again.
                known = version in self._measured
                self._measured.add(version)
                return not known
        return False

    def _values_of(self, event: Event) -> tuple[int, dict[str, float]]:
        """Step, which is the number of the global model, and values by name."""
        if event["event"] == "metrics":
            return event["version"], {name: float(value) for name, value in event["metrics"].items()}
        values = {"federation/participants": float(len(event["participants"]))}
        for field in ("bytes_up", "bytes_down", "seconds"):
            if field in event:
                values[f"federation/{field}"] = float(event[field])
        return event["round"], values | (self._epsilon.up_to(event["round"]) if self._epsilon else {})


class Tracking:
    """Feeds loggers while this process coordinates.

    Args:
        loggers: from ``make_loggers``.
        store: the coordinator's folder, which is a store by now.

    Raises:
        StoreError: the marks cannot be read.
    """

    def __init__(self, loggers: Sequence[Made], store: Path) -> None:
        if loggers:
            (store / MARKS).mkdir(exist_ok=True)
            remove_torn(store / MARKS)
        self._tracked = [Tracked(made, store) for made in loggers]

    def __enter__(self) -> "Tracking":
        """Begin."""
        for tracked in self._tracked:
            tracked.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let each take the last events, and tell it how the federation ended."""
        for tracked in self._tracked:
            tracked.end("failed" if kind else "success")
        deadline = time.monotonic() + _LAST_WORDS_S
        for tracked in self._tracked:
            if not tracked.wait(max(deadline - time.monotonic(), 0.0)):
                _log.warning(
                    "the logger %s has not taken the last values within %.0f s and is not waited for. Look at its "
                    "server.",
                    tracked.name,
                    _LAST_WORDS_S,
                )


def _read_mark(path: Path) -> int:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark).events
    except FileNotFoundError:
        return 0
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}. Remove it, and all rounds are logged again.") from error
