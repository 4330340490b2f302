"""Prints what a site sends, captured from a federation of three sites that runs inside this process.

``python docs/capture.py`` prints the marked parts of the pages in this folder. The bytes are the ones that the
transport is given; on the line they are encrypted once more.
"""

import json
import random
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeVar

import msgspec
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import UpdateRefusedError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record, Save, Send
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.session import Outgoing, SiteSession
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec, check_finite

WATCHED = "north"
EXAMPLES = {"north": 120, "south": 80, "west": 200}
UPDATES = {
    "north": [0.5, -0.25, 0.125, 1.0, 0.0, -2.0],
    "south": [1.0, 0.75, -0.5, 0.25, 2.0, 0.5],
    "west": [-0.5, 0.5, 0.25, -1.0, 1.5, 0.0],
}
METRICS = {
    "north": {"val_accuracy": 0.75, "val_loss": 0.5},
    "south": {"val_accuracy": 0.875, "val_loss": 0.25},
    "west": {"val_accuracy": 0.5, "val_loss": 1.0},
}
STATES = {"north": [90.0, 120.0], "south": [70.0, 80.0], "west": [100.0, 200.0]}
"""Correct images and all images: what an accuracy is computed from."""

LAYOUT = Layout((TensorSpec("classifier.weight", (2, 2), "float32"), TensorSpec("classifier.bias", (2,), "float32")))

SHOWN_BYTES = 24

_Kind = TypeVar("_Kind", bound=m.Message)


def _accuracy(sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: correct / images for name, (correct, images) in sums.items()}


@dataclass(frozen=True)
class Sent:
    """One thing a site sent: the message, its bytes, and the raw bytes behind it."""

    message: m.Message
    data: bytes
    payload: bytes


class Federation:
    """One round with three sites.

    Args:
        mode: of the plan's masking.
        broken: the watched site's update holds a NaN.

    Attributes:
        sent: what the watched site sent, in order.
        records: what the coordinator wrote into its event log.
        model: the newest global model.
    """

    def __init__(self, mode: Literal["required", "off"], broken: bool = False) -> None:
        plan = FederationPlan(rounds=1, metrics=["val_accuracy", "val_loss"], masking=Masking(mode))
        keys = {name: Ed25519PrivateKey.generate() for name in EXAMPLES}
        members = Members(
            {name: key.public_key().public_bytes_raw() for name, key in keys.items()}, document=b"the roster's file"
        )
        self.sent: list[Sent] = []
        self.records: list[Record] = []
        self.model = GlobalModel(0, LAYOUT, torch.zeros(LAYOUT.size), {})
        self._updates = {name: torch.tensor(values) for name, values in UPDATES.items()}
        if broken:
            self._updates[WATCHED][4] = float("nan")
        self._coordinator = CoordinatorSession(plan, "0a1b2c3d4e5f6071", members, self.model, draw=random.Random(0))
        self._sites = {name: SiteSession(name, "5e" * 16, "0.1.0", keys[name], members) for name in EXAMPLES}
        self._down: deque[Send] = deque()
        self._done: dict[str, set[str]] = {name: set() for name in EXAMPLES}
        self._perform(self._coordinator.start())
        for name, site in self._sites.items():
            self._send(name, site.connected())
        self._settle()

    def _settle(self) -> None:
        while self._coordinator.outcome is None:
            if self._down:
                action = self._down.popleft()
                answers = self._sites[action.site].receive(action.message, action.chunk)
                self._send(action.site, answers)
                continue
            moved = [self._trainer(name, site) for name, site in self._sites.items()]
            if not any(moved):
                return

    def _trainer(self, name: str, site: SiteSession) -> bool:
        """What the round loop of a site would do next, once each."""
        done = self._done[name]
        if site.plan and "join" not in done:
            done.add("join")
            self._send(name, site.join(LAYOUT, {"val_accuracy": 2}))
        elif site.begun == 1 and "update" not in done:
            done.add("update")
            self._send(name, self._update(name, site))
        elif site.model and site.model[0] == 1 and "report" not in done:
            done.add("report")
            self._send(name, site.report(1, METRICS[name], {"val_accuracy": STATES[name]}, _accuracy))
        elif site.finished and not site.reporting and "leave" not in done:
            done.add("leave")
            self._send(name, site.leave(m.Leave("done")))
        else:
            return False
        return True

    def _update(self, name: str, site: SiteSession) -> list[Outgoing]:
        update = self._updates[name]
        try:
            check_finite(update, LAYOUT)
        except UpdateRefusedError as error:
            return site.withdraw(1, str(error))
        return site.submit(1, memoryview(update.numpy()).cast("B"), SiteReport(EXAMPLES[name]))  # type: ignore[arg-type]

    def _send(self, name: str, outgoing: list[Outgoing]) -> None:
        for message, chunk in outgoing:
            data = m.encode(message)
            if name == WATCHED:
                self.sent.append(Sent(message, data, bytes(chunk) if chunk is not None else b""))
            self._perform(self._coordinator.receive(name, m.decode_from_site(data), chunk))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._down.append(action)
                case Record():
                    self.records.append(action)
                case Save(model):
                    self.model = model

    def first(self, kind: type[_Kind]) -> _Kind:
        """The first message of a kind that the watched site sent."""
        return next(sent.message for sent in self.sent if isinstance(sent.message, kind))

    def update_chunk(self) -> bytes:
        """The update as it was sent."""
        return next(
            sent.payload for sent in self.sent if isinstance(sent.message, m.Chunk) and sent.message.stream == "update"
        )

    def masked_metrics(self) -> bytes:
        """The metrics as they were sent under masks."""
        return next(
            sent.message.payload
            for sent in self.sent
            if isinstance(sent.message, m.Masking) and sent.message.purpose == "metrics" and sent.message.payload
        )


def shown(value: object) -> str:
    """A field as text; bytes as their number."""
    match value:
        case bytes():
            return f"{len(value)} bytes"
        case str():
            return f'"{value}"'
        case dict():
            return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in sorted(value.items())) + "}"
        case msgspec.Struct() | list() | tuple():
            return msgspec.json.encode(value).decode()
        case _:
            return str(value)


def fields(message: msgspec.Struct) -> str:
    """A message's fields as text."""
    return ", ".join(f"{name} = {shown(getattr(message, name))}" for name in message.__struct_fields__)


def row(sent: Sent) -> str:
    """One row of the table of all messages."""
    message, size = sent.message, f"{len(sent.data)}"
    kind, content = f"`{type(message).__name__}`", f"`{fields(message)}`"
    if isinstance(message, m.Masking):
        step = masking.decode_from_site(message.data)
        kind = f"`Masking` {message.purpose}: `{type(step).__name__}`"
        own = [name for name in step.__struct_fields__ if name not in ("round", "attempt", "purpose")]
        parts = [f"{name} = {shown(getattr(step, name))}" for name in own]
        if message.payload:
            parts.append(f"payload = {shown(message.payload)}")
        content = f"`{', '.join(parts)}`"
    if sent.payload:
        size += f" + {len(sent.payload)}"
    return f"| {kind} | {size} | {content} |"


def table(sent: Iterable[Sent]) -> str:
    """What a site sent, as a table."""
    rows = [key for key, _ in groupby(row(one) for one in sent)]
    return "\n".join(["| message | bytes | content |", "| --- | --- | --- |", *rows])


def records(federation: Federation) -> str:
    """What the coordinator wrote down from the round's start on, one JSON object a line; the service adds the time."""
    kinds = [record.event for record in federation.records]
    since = federation.records[kinds.index("round_started") :]
    lines = [json.dumps({"event": record.event, **record.data}) for record in since]
    return "\n".join(["```json", *lines, "```"])


def hexadecimal(data: bytes) -> str:
    """The first bytes in hexadecimal, and how many follow."""
    rest = f" and {len(data) - SHOWN_BYTES} bytes more" if len(data) > SHOWN_BYTES else ""
    return f"`{data[:SHOWN_BYTES].hex(' ', 4)}`{rest}"


def side_by_side(off: Federation, once: Federation, again: Federation) -> str:
    """The same update, count and metric in the clear and under masks, twice."""
    offers = [federation.first(m.Offer) for federation in (off, once, again)]
    cells = [
        ("the update", *(hexadecimal(federation.update_chunk()) for federation in (off, once, again))),
        ("its number of examples", *(f"`examples = {offer.examples}`" for offer in offers)),
        (
            "the metrics",
            f"`{fields(off.first(m.Report))}`",
            *(hexadecimal(federation.masked_metrics()) for federation in (once, again)),
        ),
    ]
    head = "| | masking off | masking required | masking required, once more |"
    return "\n".join([head, "| --- | --- | --- | --- |", *("| " + " | ".join(cell) + " |" for cell in cells)])


def parts() -> dict[str, str]:
    """The page's marked parts by name; ``side by side`` differs from call to call, the others do not."""
    off, once, again = Federation("off"), Federation("required"), Federation("required")
    broken = Federation("required", broken=True)
    return {
        "side by side": side_by_side(off, once, again),
        "messages, masking off": table(off.sent),
        "messages, masking required": table(once.sent),
        "withdrawal": table(sent for sent in broken.sent if isinstance(sent.message, m.Withdraw)),
        "events": records(once),
    }


def marked(name: str, text: str) -> str:
    """A part between its markers."""
    return f"<!-- captured: {name} -->\n\n{text}\n\n<!-- end -->"


def main() -> None:
    """Print all parts."""
    sys.stdout.write("\n\n".join(marked(name, text) for name, text in parts().items()) + "\n")


if __name__ == "__main__":
    main()
