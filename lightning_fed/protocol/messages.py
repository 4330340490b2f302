"""The messages: typed, versioned, bounded; encoded with MessagePack. Tensors follow as raw little-endian chunks."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lightning_fed.audit.lines import Head
from lightning_fed.update.layout import Layout
from lightning_fed.wire import decoded, encoded

VERSION = 9
"""Version of the protocol; the two sides must agree."""

CHUNK_BYTES = 1 << 20
"""Tensor bytes a chunk carries. One MiB halves the cost of an encrypted round against one frame a tensor."""

WINDOW = 32
"""Chunks one side may have under way to the other: bounds memory, and is what back-pressure acts on."""

MAX_REASON = 500
"""Characters of a reason that a site gives and the coordinator writes down."""

Stream = Literal["model", "delta", "control", "frozen", "initial", "vote", "update"]
"""What a chunk is part of: a global model, its difference from the one before, the control variate that goes with it,
the frozen parameters, the first site's initial state, a site's ballot, a site's update."""


Count = Annotated[int, Meta(ge=0, le=1 << 32)]
"""A round, a version or an attempt."""

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A SHA-256 hash."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of all messages."""


class Hello(Message, frozen=True):
    """Site: first message on a connection. ``process`` tells a reconnection from a second process of the same name.

    ``roster`` is the SHA-256 hash of the roster's file that the site has, empty without one.
    """

    protocol: int
    package: str
    process: str
    roster: bytes = b""


class Welcome(Message, frozen=True):
    """Coordinator: the run, the plan's canonical bytes, and the version of the newest global model (0 before any).

    ``roster`` is the file of the newest roster, empty where the site has it: of ten thousand sites it takes megabytes.
    """

    run: str
    plan: bytes
    version: Count = 0
    roster: bytes = b""


class Join(Message, frozen=True):
    """Site: accepts the plan and describes its model; ``metrics`` holds by name the numbers of a summable state.

    ``members`` is the digest of the members that it knows, see ``protocol.members``.
    """

    layout: Layout
    metrics: dict[str, int] = {}
    members: bytes = b""


class Joined(Message, frozen=True):
    """Coordinator: the site takes part. ``frozen_bytes`` (safetensors) can be fetched; 0 when nothing is frozen.

    ``ledger_head`` is the last that it heard of the site's ledger in this run, empty before the first.
    """

    frozen_bytes: int
    ledger_head: bytes = b""


class NewRoster(Message, frozen=True):
    """Coordinator: the file of a newer roster, by which the next attempt goes."""

    roster: bytes


class TakesRoster(Message, frozen=True):
    """Site: goes by the roster whose members have this digest."""

    members: Digest


class DeclinesRoster(Message, frozen=True):
    """Site: does not take the roster that it was sent, and takes no part with its members; and why."""

    reason: str


class SendInitial(Message, frozen=True):
    """Coordinator: this site, being the first, gives the initial global model."""


class Model(Message, frozen=True):
    """Coordinator: the global model after round ``version`` (0: the initial one) can be fetched.

    A site is told when it joins, before it is to train, when it has been asked to train for it, and of the last one. It
    fetches what it needs: one that it was told of when it came back it may never need.

    ``delta`` is the size of its difference from the model before, 0 where there is none to be had; ``control`` says
    that a control variate goes with it; ``counted`` is the last round whose sum holds this site's update, 0 if there is
    none, or if nothing of an update stays at a site that would have to know.
    """

    version: Count
    nbytes: int
    delta: int = 0
    control: bool = False
    # On the line by its older name.
    counted: int = msgspec.field(default=0, name="taken")


class Begin(Message, frozen=True):
    """Coordinator: train round ``round`` from the global model of version ``round - 1``.

    When updates are masked, ``bounds`` are those of the fixed-point codes (or the clipping norm) and ``model`` the hash
    of the global model with all that goes with it (``update.model_digest``); every site signs both, so that a
    coordinator cannot tell sites different ones.

    Where each site trains at its own pace, one without ``model`` asks for updates up to this round. Under masks, one
    with ``model`` then asks a site that was ``Ready`` to agree on keys with those that it is to be summed with.
    """

    round: Count
    attempt: Count
    bounds: tuple[float, ...] = ()
    model: bytes = b""


class Support(Message, frozen=True):
    """Coordinator: the blocks that won the vote of a round, as ``index_coding`` writes them."""

    round: Count
    attempt: Count
    blocks: bytes


Purpose = Literal["vote", "update", "presence", "metrics"]
"""What a masked sum is over: the ballots or updates of a round, or, of the global model of a version, which metrics a
site has, and those metrics."""


class BeginReport(Message, frozen=True):
    """Coordinator: agree on keys for the masked metrics of the global model of ``version``.

    ``model`` is its hash (``update.model_digest``); ``sizes`` the numbers of each metric's state, 0 where a plain value
    is summed.
    """

    version: Count
    attempt: Count
    model: bytes
    sizes: dict[str, int]


class MetricCounts(Message, frozen=True):
    """Coordinator: the metrics that are summed now, and by name how many of the sites in the sum of presence have it.

    Every site signs it with its masked metrics, so that a coordinator cannot tell sites different ones.
    """

    version: Count
    attempt: Count
    counts: dict[str, Count]


class NoReport(Message, frozen=True):
    """Site: it has left the sums of the metrics of ``version``; ``accused``: see ``Withdraw``."""

    version: int
    accused: str = ""


class Masking(Message, frozen=True):
    """Either side: a step of a masked sum, see ``lightning_fed.masking.messages``.

    ``round`` is the round, for metrics the version; ``payload`` holds masked metrics, which are small enough to need no
    stream of their own.
    """

    purpose: Purpose
    round: Count
    attempt: Count
    data: bytes
    payload: bytes = b""

    def __repr__(self) -> str:
        # Seeds and shares may be in it, which a log that prints messages must not show.
        header = f"purpose={self.purpose!r}, round={self.round}, attempt={self.attempt}"
        return f"Masking({header}, data of {len(self.data)} bytes, payload of {len(self.payload)} bytes)"


class Fetch(Message, frozen=True):
    """Site: send ``count`` chunks of a stream, from chunk ``first`` on."""

    stream: Stream
    version: int
    first: int
    count: int


class Chunk(Message, frozen=True):
    """Either side: the chunk ``index`` of a stream follows as a raw frame."""

    stream: Stream
    version: int
    index: int


class Offer(Message, frozen=True):
    """Site: an update (a ballot, the initial state) of ``nbytes`` is ready.

    Of an update without masks, ``examples``, ``steps`` and ``loss`` are what the weighting may need, see
    ``aggregation.contracts.SiteReport``.
    """

    stream: Stream
    version: int
    nbytes: int
    examples: int
    steps: int = 1
    loss: float | None = None


class Ready(Message, frozen=True):
    """Site at its own pace, under masks: it holds an update of ``round``, which nobody has seen anything of yet.

    ``model`` is the hash of the global model that it was trained from: only updates of one model are summed.
    """

    round: Count
    model: Digest


class Credit(Message, frozen=True):
    """Coordinator: ``count`` more chunks of the offered stream may be sent."""

    stream: Stream
    version: int
    count: int


class Rejected(Message, frozen=True):
    """Coordinator: the update of this round is not in the sum, and why."""

    round: int
    reason: str


class LedgerHead(Message, frozen=True):
    """Site: hash of the last line of its privacy ledger, which holds what the update that follows has cost.

    The coordinator notes it and tells it back, so that an older copy of the ledger is noticed. Each line has a random
    salt, so that the hash says nothing of what it holds.
    """

    head: Digest


class LogHead(Message, frozen=True):
    """Either side: the newest line of its audit log that is on its disk, signed, to be kept in the other's log.

    With it neither side can deny what its log held by then. The coordinator's comes before a global model, before
    ``Finished`` and before ``Farewell``, a site's before an ``Offer`` and before ``Leave``.
    """

    head: Head


class Withdraw(Message, frozen=True):
    """Site: it has no update for this round, and why.

    ``opened`` says that the sum of this round may have been opened before, so that no update of it may be summed again;
    ``accused`` names the site whose sealed shares do not open, if that is why. ``only`` are the survivor sets one of
    which the sum must be over, of this run's, if the site may sign no other for the present model; empty if it may sign
    none at all.
    """

    round: int
    reason: str
    opened: bool = False
    accused: str = ""
    only: list[list[str]] | None = None


class Report(Message, frozen=True):
    """Site: the plan's metrics of the global model after round ``version``."""

    version: int
    metrics: dict[str, float]


class MetricSums(Message, frozen=True):
    """Coordinator: the opened sums of the metrics' states of a version; empty if there is nothing to compute."""

    version: int
    sums: dict[str, list[float]]


class Computed(Message, frozen=True):
    """Site: what the metrics compute from the sums."""

    version: int
    metrics: dict[str, float]


LeaveReason = Literal["done", "stopped", "interrupted", "failed", "refused"]


class Leave(Message, frozen=True):
    """Site: goes for good. ``reason`` is one of a few fixed words, so that nothing local slips out."""

    reason: LeaveReason


class Farewell(Message, frozen=True):
    """Coordinator: it has heard that the site leaves, which may close its connection now."""


class Finished(Message, frozen=True):
    """Coordinator: ``version`` is the last global model."""

    version: int


class Paused(Message, frozen=True):
    """Coordinator: its operator has paused the federation, so that no round begins; or it goes on."""

    paused: bool


RefusalKind = Literal[
    "AlreadyConnectedError",
    "IdentityError",
    "ModelMismatchError",
    "ProtocolError",
    "QuorumLostError",
    "SiteDroppedError",
]


class Refused(Message, frozen=True):
    """Coordinator: the site cannot take part, or the federation goes on for nobody (``QuorumLostError``).

    ``kind`` names the error class to raise at the site.
    """

    kind: RefusalKind
    reason: str


class Ping(Message, frozen=True):
    """Coordinator: are you there? Needs no answer: that it can be sent is one."""


FromSite = (
    Hello
    | Join
    | TakesRoster
    | DeclinesRoster
    | Fetch
    | LedgerHead
    | LogHead
    | Offer
    | Chunk
    | Ready
    | Masking
    | Withdraw
    | Report
    | NoReport
    | Computed
    | Leave
)
FromCoordinator = (
    Welcome
    | NewRoster
    | Joined
    | SendInitial
    | Model
    | Begin
    | Support
    | BeginReport
    | MetricCounts
    | MetricSums
    | Masking
    | Chunk
    | Credit
    | Rejected
    | LogHead
    | Farewell
    | Finished
    | Refused
    | Paused
    | Ping
)

_from_site: "msgspec.msgpack.Decoder[FromSite]" = msgspec.msgpack.Decoder(FromSite)
_from_coordinator: "msgspec.msgpack.Decoder[FromCoordinator]" = msgspec.msgpack.Decoder(FromCoordinator)


def encode(message: Message) -> bytes:
    """MessagePack bytes of a message.

    Raises:
        ProtocolError: the message is larger than any receiver accepts.
    """
    return encoded(message, "The model has too many tensors for one federation.")


def decode_from_site(data: bytes) -> FromSite:
    """The message a site sent.

    Raises:
        ProtocolError: the bytes are too many, or not such a message.
    """
    return decoded(_from_site, data, "a message")


def decode_from_coordinator(data: bytes) -> FromCoordinator:
    """The message a coordinator sent.

    Raises:
        ProtocolError: the bytes are too many, or not such a message.
    """
    return decoded(_from_coordinator, data, "a message")
