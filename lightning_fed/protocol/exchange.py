"""What a plan makes of an update: both sides of the federation build the same ``Exchange`` and so the same bytes.

A site's update passes through it in this order: the residual of earlier rounds is added, the coordinates to send are
chosen, the weighting is applied, the values become ring words (under masks, with clipping and noise where the plan asks
for site-level privacy) or bytes (without masks). The coordinator goes the other way with the sum.
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_fed.aggregation.contracts import Aggregation, Algorithm, ChecksSums, SiteReport, Spans
from lightning_fed.aggregation.ef21 import KnownMean
from lightning_fed.aggregation.fedbuff import FedBuff
from lightning_fed.aggregation.feddyn import FedDyn
from lightning_fed.aggregation.norm_bounding import SiteNormBounding
from lightning_fed.aggregation.scaffold import Scaffold
from lightning_fed.aggregation.total import Total
from lightning_fed.aggregation.weightings import ByExamples, Uniform
from lightning_fed.errors import PlanError, ProtocolError, UpdateRefusedError
from lightning_fed.plan import FederationPlan
from lightning_fed.plan.soundness import sums_no_data
from lightning_fed.plan.value_codec import ValueCodec
from lightning_fed.privacy.contribution import PrivateContribution
from lightning_fed.protocol.streams import Memory, Room
from lightning_fed.protocol.terms import largest_cohort, terms_of
from lightning_fed.update.contribution import Contribution, Decoded
from lightning_fed.update.fixed_point import FixedPoint
from lightning_fed.update.index_coding import decode_indices, encode_indices, expected_code_bytes, largest_code_bytes
from lightning_fed.update.quantisation import NumberFormat
from lightning_fed.update.tally import MOST_SITES
from lightning_fed.update.topk import largest, round_seed, shared_random
from lightning_fed.update.vectors import FloatVector, IndexVector, RingVector
from lightning_fed.update.vote import BlockVote
from lightning_fed.wire import MAX_MESSAGE_BYTES

VOTE_BITS = 32
"""Several votes share one word of the ring, see ``update.vote``."""

_HEAD = struct.Struct("<II")
"""Before an update whose coordinates are a site's own: how many they are, and how many bytes their code takes."""

_SHORTEST_CODE = 2
"""Bytes of the code of one index: its split, and a unary part."""

_BOUND_BY_EXAMPLES, _BOUND_ALIKE = 1024.0, 1.0


class Terms(NamedTuple):
    """What one site adds to the sums.

    Attributes:
        values: float32, shape ``(parts * P,)`` or as many as are sent.
        factor: what the values are still to be multiplied by.
        numbers: what is summed beside them.
    """

    values: FloatVector
    factor: float
    numbers: Mapping[str, float]


class RoundCode(Protocol):
    """How one round's values become ring words, and the words' sum values again."""

    @property
    def length(self) -> int:
        """Ring words of a contribution."""
        ...

    def encode(
        self,
        values: FloatVector,
        numbers: Mapping[str, float],
        weight: float = 1.0,
        plain: float | None = None,
        out: RingVector | None = None,
    ) -> RingVector:
        """Ring words of one site's values, still to be multiplied by ``weight``, and numbers.

        ``plain`` is its largest magnitude before it was weighted, where the values are weighted already; ``out`` is
        where to write.
        """
        ...

    def decode(self, words: RingVector, survivors: int) -> Decoded:
        """What the sum of so many sites' words stands for."""
        ...


@dataclass(frozen=True)
class Exchange:
    """The exchange of one federation.

    Args:
        plan: the plan.
        size: number of values P of the model.
        members: number of sites of the roster.
        statistics: where the flat vector holds buffers that no gradient moved.
        room: gives an upload of so many bytes, at the coordinator, the room where it lies until it is whole.
    """

    plan: FederationPlan
    size: int
    members: int
    statistics: Spans = ()
    room: Callable[[int], Room] = Memory

    @cached_property
    def algorithm(self) -> Algorithm:
        """The plan's algorithm with its settings, which a plan reads anew whenever it is asked."""
        return self.plan.aggregation

    @cached_property
    def aggregation(self) -> Aggregation:
        """The working parts of the plan's algorithm.

        Where a privacy promise is made each site counts alike: the number of its examples is data, too. So it does
        where nothing is trained: what sites count is added up. And so it does where the coordinator goes on with what
        it knows: a share of examples is another one in each round, and old values would never be taken back in full.
        """
        parts = self.algorithm.build(self.size, self.statistics)
        if self.known_mean:
            self.plan.compression.check_statistics(self.statistics)
            parts = Aggregation(parts.combine, KnownMean(parts.server, self.size, self.members))
        promised = self.plan.privacy.site or self.plan.privacy.example
        if (promised or self.plan.counted or self.known_mean) and type(parts.combine) is ByExamples:
            return Aggregation(Uniform(), parts.server)
        if promised and not (self.algorithm.needs_single_updates or sums_no_data(parts.combine)):
            # The plan was checked with a model of one value; this is the one that is trained.
            raise PlanError(
                f"plan.algorithm = {self.algorithm.name!r} sums numbers that depend on the data, and "
                "plan.privacy has no noise for them."
            )
        return parts

    @property
    def reported(self) -> bool:
        """Whether the combination needs to know anything of a site's training."""
        return bool(set(getattr(self.aggregation.combine, "sums", ())) - {"sites"})

    @property
    def parts(self) -> int:
        """Vectors of P values that an update consists of: SCAFFOLD's brings the change of its control variate."""
        return 2 if isinstance(self.algorithm, Scaffold) else 1

    @property
    def control_part(self) -> slice | None:
        """Where an update holds the change of the site's control; None where the algorithm lets a site keep none."""
        if isinstance(self.algorithm, Scaffold):
            return slice(self.size, 2 * self.size)
        return slice(0, self.size) if isinstance(self.algorithm, FedDyn) else None

    @property
    def buffered(self) -> FedBuff | None:
        """The plan's algorithm where sites train at their own pace; None where there are rounds."""
        algorithm = self.algorithm
        return algorithm if isinstance(algorithm, FedBuff) else None

    @property
    def settles(self) -> bool:
        """Whether a site must know which of its updates counted.

        It must where something of them stays with it, or where no newer version tells it.
        """
        return self.keeps_residual or self.control_part is not None or self.buffered is not None

    @property
    def keeps_residual(self) -> bool:
        """Whether values are left out, and so kept for the next round."""
        return self.plan.compression.method != "none"

    @property
    def known_mean(self) -> bool:
        """Whether the coordinator goes on with what it knows of a site's values that are not sent."""
        return self.keeps_residual and self.plan.compression.feedback == "ef21"

    @property
    def cohort(self) -> int:
        """Most sites in one round."""
        return largest_cohort(self.plan, self.members)

    @property
    def count(self) -> int:
        """Number of values that a site sends; where each site has its own coordinates, that it may send at most."""
        compression = self.plan.compression
        if compression.method == "none":
            return self.parts * self.size
        if compression.method == "vote":
            vote = self.vote
            # The last block may be shorter; its missing coordinates are sent as zeros, whether it wins or not.
            return vote.winners * vote.block
        return self.count_of(compression.share)

    def count_of(self, share: float) -> int:
        """Number of coordinates that a share is, at least one."""
        return max(1, math.ceil(share * self.size))

    @property
    def width(self) -> int:
        """Number of values of the sum: where each site has its own coordinates, of all of them."""
        return self.size if self.plan.compression.method == "topk" else self.count

    # Which coordinates

    @cached_property
    def vote(self) -> BlockVote:
        """What a round votes about.

        Raises:
            PlanError: its result would not fit a message.
        """
        compression = self.plan.compression
        block = min(compression.block, self.size)
        blocks = -(-self.size // block)
        winners = max(1, math.ceil(compression.share * blocks))
        listed = max(winners, math.ceil(compression.listed * blocks))
        if largest_code_bytes(blocks, winners) > MAX_MESSAGE_BYTES // 2:
            raise PlanError(
                f"the result of a vote for {winners} of {blocks} blocks is too large for a message. Raise "
                f"plan.compression.block, which is {compression.block}, or lower share."
            )
        cohort = terms_of(self.plan, self.members).largest_cohort if self.masked else self.cohort
        return BlockVote(self.size, block, winners, cohort, None if listed == blocks else listed)

    @property
    def votes(self) -> bool:
        """Whether the coordinates are voted about."""
        return self.plan.compression.method == "vote"

    @property
    def masked(self) -> bool:
        """Whether updates are masked."""
        return self.plan.masking.mode == "required"

    def seed(self, round: int) -> bytes:
        """The public random bytes of a round, the same for every attempt at it."""
        return round_seed(self.plan.hash, round)

    def support(self, round: int) -> IndexVector | None:
        """Coordinates that all sites of a round send whatever their data; None where they are chosen by the data."""
        if self.plan.compression.method != "randomk":
            return None
        return shared_random(self.size, self.count, self.seed(round))

    # Under masks

    @property
    def first_bounds(self) -> tuple[float, ...]:
        """What the first round's values are bounded by: the clipping norm, or the largest weighted value."""
        site = self.plan.privacy.site
        if site:
            return (site.clipping_norm,)
        if self.plan.counted:
            # So the ring's step is 1, and whole numbers are not rounded.
            cohort = terms_of(self.plan, self.members).largest_cohort
            if cohort > MOST_SITES:
                raise PlanError(f"a sum over {cohort} sites is not exact beyond {MOST_SITES}. Set plan.cohort_size.")
            return (float(FixedPoint(self.plan.masking.bits, cohort, 1.0).limit),)
        by_examples = "examples" in getattr(self.aggregation.combine, "sums", ())
        # Far too large a bound rounds most of the first update to 0 and the rest to large steps.
        return self.parts * (self.plan.masking.bound or (_BOUND_BY_EXAMPLES if by_examples else _BOUND_ALIKE),)

    def code(self, bounds: tuple[float, ...], first: bool = False) -> RoundCode:
        """The code of a round's ring words.

        Args:
            bounds: of each part of an update.
            first: no round has measured them yet.

        Raises:
            PlanError: a bound is impossible.
            ProtocolError: not as many bounds as parts.
        """
        if len(bounds) != len(self.first_bounds):
            raise ProtocolError(f"{len(bounds)} bounds do not fit an update of {len(self.first_bounds)} parts.")
        if self.plan.privacy.site:
            return self.private_code(bounds[0])
        combine = self.aggregation.combine
        assert hasattr(combine, "sums")
        cohort = terms_of(self.plan, self.members).largest_cohort
        sums = tuple(combine.sums)
        return Contribution(self.count, self.plan.masking.bits, cohort, bounds, sums, sums != ("sites",), first)

    def private_code(self, max_norm: float) -> PrivateContribution:
        """The code of a round under site-level privacy.

        Raises:
            PlanError: the ring has no room for it, or the plan makes no such promise.
        """
        site, masking = self.plan.privacy.site, self.plan.masking
        assert site is not None
        return PrivateContribution(
            self.width,
            masking.bits if self.masked else None,
            terms_of(self.plan, self.members).largest_cohort if self.masked else self.cohort,
            max_norm,
            site.noise_multiplier,
            site.mechanism,
            self.plan.quorum - masking.colluding if site.mechanism == "distributed" else 1,
            site.quantile,
            masking.colluding,
        )

    def check_report(self, report: SiteReport) -> None:
        """Accept a site's own report as one that the plan lets it send, or raise.

        Raises:
            UpdateRefusedError: more examples than a site may have.
        """
        if self.reported and report.examples > self.plan.max_examples:
            raise UpdateRefusedError(
                f"the site trained on {report.examples} examples, and plan.max_examples = {self.plan.max_examples}. "
                "Raise it in the plan, or train on fewer in a round."
            )

    def terms(self, values: FloatVector, report: SiteReport) -> Terms:
        """A site's terms of the sums.

        The values are those given, and no copy, where all that the weighting does is to multiply them.

        Raises:
            UpdateRefusedError: the report lacks a number that the weighting needs.
        """
        combine = self.aggregation.combine
        if self._plain:
            return Terms(values, *self._plain.factor(report))
        assert hasattr(combine, "contribution") and hasattr(combine, "sums")
        vector, numbers = combine.contribution(torch.from_numpy(values), report)
        if numbers.keys() != set(combine.sums):
            raise UpdateRefusedError(
                f"{type(combine).__name__} names the sums {sorted(combine.sums)} and gives {sorted(numbers)}. Mend the "
                "weighting."
            )
        return Terms(vector.numpy(), 1.0, numbers)

    def add(
        self, total: Total, values: FloatVector, report: SiteReport, support: IndexVector | None
    ) -> Mapping[str, float]:
        """Add a site's terms of the sums to a total; returns the numbers beside it.

        Args:
            total: the sum so far, which is as it was if the update is refused.
            values: the site's values.
            report: what it reports beside them.
            support: their coordinates; None where they are about all.

        Raises:
            UpdateRefusedError: the report lacks a number that the weighting needs.
        """
        values, factor, numbers = self.terms(values, report)
        total.add(torch.from_numpy(values), None if support is None else torch.from_numpy(support), factor)
        return numbers

    def add_in_pieces(
        self, total: Total, pieces: Iterable[memoryview], report: SiteReport, scale: float = 1.0
    ) -> Mapping[str, float]:
        """As ``add`` where ``in_pieces`` says that no update need be seen whole.

        Args:
            total: see ``add``.
            pieces: the bytes of the site's values, in order.
            report: see ``add``.
            scale: what the values are multiplied by before they are weighted, in float32.
        """
        plain = self._plain
        assert plain is not None
        factor, numbers = plain.factor(report)
        at = 0
        for piece in pieces:
            values = np.frombuffer(piece, dtype="<f4")
            if scale != 1.0:
                values = values * np.float32(scale)
            total.add(torch.from_numpy(values), factor=factor, at=at)
            at += values.size
        return numbers

    @property
    def in_pieces(self) -> bool:
        """Whether a sum without masks needs no update whole: each is sent as it is, and multiplied by one number."""
        return self.plan.compression.method == "none" and self.plan.privacy.site is None and self._plain is not None

    @property
    def _plain(self) -> ByExamples | Uniform | None:
        # These two exactly: a class that is derived from one may weight in another way.
        combine = self.aggregation.combine
        return combine if type(combine) is ByExamples or type(combine) is Uniform else None

    def check_sums(self, numbers: Mapping[str, float], sites: int) -> None:
        """Accept the sums beside the updates of so many sites, or raise.

        Raises:
            UpdateRefusedError: honest sites cannot have summed to that.
        """
        combine = self.aggregation.combine
        if isinstance(combine, ChecksSums):
            combine.check_sums(numbers, sites, self.plan.max_examples)

    @property
    def largest_norm(self) -> float | None:
        """L2 norm that no honest site's update passes, if the plan's algorithm says so."""
        algorithm = self.algorithm
        return algorithm.max_norm if isinstance(algorithm, SiteNormBounding) else None

    def mean(self, total: Tensor | Total, numbers: Mapping[str, float], support: IndexVector | None) -> Tensor:
        """The mean update of summed contributions, flat float32, shape ``(parts * P,)``.

        Args:
            total: sum of the weighted values, shape ``(count,)``, or ``(parts * P,)`` where supports differ. It may be
                overwritten, and a ``Total`` is used up.
            numbers: the sums beside it.
            support: the coordinates that ``total`` is about; None where it is about all.
        """
        combine = self.aggregation.combine
        assert hasattr(combine, "mean_update")
        if self._plain:
            mean = self._plain.mean_update(total, numbers)
        else:
            mean = combine.mean_update(total.sum if isinstance(total, Total) else total, numbers)
        if support is None:
            return mean
        whole = torch.zeros(self.parts * self.size)
        whole[torch.from_numpy(support)] = mean[: len(support)]
        return whole

    # Without masks

    @cached_property
    def codec(self) -> ValueCodec:
        """How values are written."""
        compression = self.plan.compression
        return compression.codec or NumberFormat(compression.values)  # type: ignore[arg-type]  # no foreign one

    def own_support(self, total: FloatVector, count: int) -> IndexVector:
        """The ``count`` coordinates of largest magnitude of a site's update and residual, at most ``self.count``."""
        return largest(total, count)

    def to_bytes(self, values: FloatVector, support: IndexVector | None) -> bytes | memoryview:
        """The bytes of one site's values; where they are sent as they are, those themselves and no copy.

        Args:
            values: float32, shape ``(count,)``; where each site has its own coordinates, as many as those.
            support: their coordinates, written too where each site has its own.
        """
        compression = self.plan.compression
        if compression.method == "none":
            return memoryview(values.astype("<f4", copy=False)).cast("B")  # type: ignore[arg-type]
        coded = self.codec.encode(values)
        expected = self.codec.nbytes(len(values))
        if not isinstance(coded, bytes) or len(coded) != expected:
            raise UpdateRefusedError(
                f"{type(self.codec).__name__}.encode must give {expected} bytes for {len(values)} values, as nbytes() "
                "says, and gave something else. Mend the codec."
            )
        if compression.method != "topk" or support is None:
            return coded
        indices = encode_indices(support, self.size)
        return _HEAD.pack(support.size, len(indices)) + indices + coded

    def from_bytes(self, data: memoryview, support: IndexVector | None) -> tuple[FloatVector, IndexVector | None]:
        """One site's values and their coordinates, of whose bytes nothing is assumed.

        Raises:
            ProtocolError: the bytes are damaged, or hold more coordinates than the plan says.
        """
        compression, count = self.plan.compression, self.count
        if compression.method == "none":
            return np.frombuffer(data, dtype="<f4"), None
        if compression.method == "topk":
            if len(data) < _HEAD.size:
                raise ProtocolError(f"an update of {len(data)} bytes does not say how many coordinates it has.")
            count, nbytes = _HEAD.unpack(data[: _HEAD.size])
            if not 1 <= count <= self.count:
                raise ProtocolError(
                    f"an update of {count} coordinates came; plan.compression.share = {compression.share} of "
                    f"{self.size} allows 1 to {self.count}."
                )
            end = _HEAD.size + nbytes
            support = decode_indices(data[_HEAD.size : end], self.size, count)
            data = data[end:]
        return self._decoded(data, count), support

    def _decoded(self, data: memoryview, count: int) -> FloatVector:
        expected = self.codec.nbytes(count)
        if len(data) != expected:
            raise ProtocolError(f"{count} values take {expected} bytes, but {len(data)} arrived.")
        try:
            values = self.codec.decode(data, count)
        except ProtocolError:
            raise
        except Exception as error:  # a codec of others may raise anything, on bytes that a site chose
            raise ProtocolError(f"{type(self.codec).__name__} cannot read an update: {error!r}.") from error
        sound = isinstance(values, np.ndarray) and values.shape == (count,) and values.dtype == np.float32
        if not sound or not np.isfinite(values).all():
            raise ProtocolError(f"the bytes of an update do not hold {count} finite values: the data is damaged.")
        return values

    @property
    def fewest_bytes(self) -> int:
        """Least bytes of an update without masks."""
        compression = self.plan.compression
        if compression.method != "topk":
            return self.most_bytes
        return _HEAD.size + _SHORTEST_CODE + self.codec.nbytes(1)

    @property
    def most_bytes(self) -> int:
        """Most bytes of an update without masks; all of them take as many, but where supports differ."""
        compression = self.plan.compression
        if compression.method == "none":
            return 4 * self.count
        coded = self.codec.nbytes(self.count)
        if compression.method != "topk":
            return coded
        # Packed to whole bytes, fewer coordinates can take one byte more than all of them.
        return _HEAD.size + largest_code_bytes(self.size, self.count) + 1 + coded

    def expected_bytes(self, count: int) -> int:
        """Bytes of an update without masks, where supports differ those of one that is spread at random.

        Args:
            count: where supports differ, the number of coordinates.
        """
        if self.plan.compression.method != "topk":
            return self.most_bytes
        return _HEAD.size + expected_code_bytes(self.size, count) + self.codec.nbytes(count)
