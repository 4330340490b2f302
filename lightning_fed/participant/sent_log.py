"""A site's own log of everything that left it, and of how far the coordinator's log was at the time."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_fed.audit.lines import Head, Name, Writer
from lightning_fed.audit.log import AuditLog
from lightning_fed.errors import ProtocolError, StoreError
from lightning_fed.files import remedy
from lightning_fed.masking import messages as masking
from lightning_fed.protocol import messages as m
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.identity import Identity


@dataclass
class _Upload:
    """What went of an offered stream so far."""

    offer: m.Offer
    bytes: int = 0
    chunks: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class SentLog:
    """One line for each message that leaves, written before it does; of an upload one for its chunks together.

    Nothing of a message's content is in it but kind, round, size and SHA-256. All lines are on the disk before an
    upload is offered, and before the goodbye: the coordinator's heads, too.

    Args:
        path: the file; its folder is made. Only its owner may read it.
        identity: the site's keys.
        coordinator: the coordinator's card.
        address: where the coordinator is reached.
        newest_identity: asked on each connection for the site's keys, where they may change: another key signs a chain
            of its own.

    Attributes:
        spent: gives the epsilon that the site's privacy ledger has now, by unit.

    Raises:
        StoreError: the file cannot be opened, read or written.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        coordinator: PublicCard,
        address: str,
        newest_identity: Callable[[], Identity] | None = None,
    ) -> None:
        self._path = path
        self._identity = identity
        self._newest_identity = newest_identity
        self._name = path.name
        self._site = identity.name
        self._coordinator = coordinator
        self._address = address
        self._run = ""
        self._heard: Head | None = None
        self._upload: _Upload | None = None
        self.spent: Callable[[], Mapping[str, float]] = dict
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {path.parent} cannot be made: {error.strerror}. The site keeps there what has left it; "
                "name another place with FederatedStrategy(ledger=...)."
            ) from error
        self._log = self._opened()

    def sent(self, message: m.Message, chunk: memoryview | None) -> m.LogHead | None:
        """Write down what is about to leave.

        Returns:
            What leaves before it.

        Raises:
            StoreError: it could not be written, and must not leave.
        """
        if isinstance(message, m.Chunk) and chunk is not None:
            self._chunk(message, chunk)
            return None
        if isinstance(message, m.Hello | m.Offer):
            self._cut_off()
        if isinstance(message, m.Hello):
            self._sign_by_newest_key()
        data = m.encode(message)
        entry = {"message": type(message).__name__, **_about(message)}
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if isinstance(message, m.Offer):
            self._upload = _Upload(message)
            if spent := self.spent():
                entry["epsilon"] = dict(spent)
        known = isinstance(message, m.Offer | m.Leave)
        self._write("sent", entry, sync=known)
        return m.LogHead(self._log.head) if known and self._log.head else None

    def received(self, message: m.Message) -> None:
        """Write down what binds the coordinator, before the site acts on it.

        Raises:
            ProtocolError: the coordinator has not signed the head that it sent.
            StoreError: it could not be written.
        """
        match message:
            case m.Welcome(run, plan, version):
                self._run = run
                where = {"coordinator": self._coordinator.name, "address": self._address}
                plan_hash = hashlib.sha256(plan).hexdigest()
                self._write("welcomed", {**where, "run": run, "plan_hash": plan_hash, "version": version})
            case m.LogHead(head) if head != self._heard:
                log, key = Name("coordinator", self._run), self._coordinator.signing_public
                if not head.is_signed(log, key):
                    raise ProtocolError(
                        f"the coordinator sent a head of its event log that the key of {self._coordinator.name!r} has "
                        "not signed. Nothing more was sent; ask whoever runs it."
                    )
                self._heard = head
                self._write("log_head", {**log.as_data(), **head.as_data(), "key": key.hex()})

    def close(self) -> None:
        """Have all lines on the disk, and close.

        Raises:
            StoreError: the disk does not take the last lines.
        """
        try:
            self._cut_off()
        finally:
            try:
                self._log.close()
            except OSError as error:
                raise self._failed(error) from error

    def _opened(self) -> AuditLog:
        return AuditLog(self._path, Writer(Name("site", self._site), self._identity.signing_key), private=True)

    def _sign_by_newest_key(self) -> None:
        newest = self._newest_identity() if self._newest_identity else self._identity
        if newest.card == self._identity.card:
            return
        self._identity = newest
        try:
            self._log.close()
        except OSError as error:
            raise self._failed(error) from error
        self._log = self._opened()

    def _chunk(self, message: m.Chunk, chunk: memoryview) -> None:
        upload = self._upload
        assert upload is not None and (upload.offer.stream, upload.offer.version) == (message.stream, message.version)
        upload.digest.update(chunk)
        upload.bytes += len(chunk)
        upload.chunks += 1
        if upload.bytes >= upload.offer.nbytes:
            self._uploaded()

    def _cut_off(self) -> None:
        """Say how far an upload came that nothing more will follow of."""
        if self._upload and self._upload.chunks:
            self._uploaded()

    def _uploaded(self) -> None:
        upload, self._upload = self._upload, None
        assert upload is not None
        entry = {"message": "Chunk", **_about(upload.offer), "chunks": upload.chunks}
        entry |= {"whole": upload.bytes == upload.offer.nbytes}
        self._write("sent", {**entry, "bytes": upload.bytes, "sha256": upload.digest.hexdigest()})

    def _write(self, event: str, data: Mapping[str, Any], *, sync: bool = False) -> None:
        try:
            self._log.append(event, data, sync=sync)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._name}, in which site {self._site!r} writes down what leaves it, cannot be written: "
            f"{error.strerror}. Nothing leaves that is not in it. {remedy(error)}, then start again."
        )


def _about(message: m.Message) -> dict[str, Any]:
    """What a message is about; nothing of what it says."""
    match message:
        case m.Masking(purpose, round, attempt, data):
            step = type(masking.decode_from_site(data)).__name__
            return {"step": step, "purpose": purpose, "round": round, "attempt": attempt}
        case m.Offer(stream, version, nbytes):
            return {"stream": stream, "round": version, "offered": nbytes}
        case m.Fetch(stream, version):
            return {"stream": stream, "round": version}
        case m.Ready(round) | m.Withdraw(round) | m.Report(round) | m.NoReport(round) | m.Computed(round):
            return {"round": round}
    return {}
