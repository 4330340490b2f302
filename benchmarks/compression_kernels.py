"""What compression costs at a site: milliseconds of one core, and in float32 norms of the same vector.

First kernel by kernel, then all that a site's ``Outbox`` does with an update, residual included and masks apart, and
last what a killed site goes on with: written to the disk of the current folder before each update leaves.

    python benchmarks/compression_kernels.py [number of parameters]

Times are CPU times of this thread, the least of several runs, so that a busy machine does not show. The norm is the
unit: a bound of 70 norms for selection, quantisation and packing together holds on a fast core and on a slow one.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.participant.pending_update import PendingUpdateFile
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import VOTE_BITS, Exchange, Terms
from lightning_fed.protocol.site.outbox import Outbox
from lightning_fed.update.clipping import clip_by_norm
from lightning_fed.update.error_feedback import ErrorFeedback
from lightning_fed.update.fixed_point import FixedPoint, decode_sum, encode
from lightning_fed.update.index_coding import decode_indices, encode_indices
from lightning_fed.update.packing import pack, pack_over, unpack
from lightning_fed.update.quantisation import dequantise, quantise
from lightning_fed.update.ring import word_dtype
from lightning_fed.update.topk import largest, shared_random
from lightning_fed.update.vote import BlockVote, ballot, coordinates, winners

SITES = 8
GOAL_NORMS = 70


def milliseconds(call: Callable[[], object], repeat: int = 7) -> float:
    call()
    times = []
    for _ in range(repeat):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return 1e3 * min(times)


class WithoutMasks:
    """Stands in for a site's masked sums, and does of their work all but the masks."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def ready(self, purpose: m.Purpose, round: int) -> bool:
        """No keys are needed."""
        return True

    def masked_ballot(self, round: int, total: np.ndarray, digest: bytes) -> tuple[m.Masking, bytes]:
        """See ``MaskedSums``."""
        return m.Masking("vote", 1, 1, b""), pack(ballot(total, self._exchange.vote, self._exchange.seed(1)), VOTE_BITS)

    def masked_update(
        self,
        round: int,
        terms: Terms,
        plain: float | None,
        digest: bytes,
        blocks: bytes,
    ) -> tuple[m.Masking, memoryview, np.ndarray | None]:
        """See ``MaskedSums``."""
        code = self._exchange.code((0.1,))
        words = code.encode(terms.values, terms.numbers, terms.factor, plain)
        sent = code.sent(words) if self._exchange.keeps_residual else None
        return m.Masking("update", 1, 1, b""), pack_over(words, self._exchange.plan.masking.bits), sent


def whole_path(update: np.ndarray, compression: Compression, masking: Masking) -> float:
    """Least milliseconds of all that an outbox does in a round: it begins, votes if there is a vote, and sends."""
    plan = FederationPlan(quorum=2, masking=masking, compression=compression)
    exchange = Exchange(plan, update.size, SITES)
    masked = WithoutMasks(exchange) if exchange.masked else None
    blocks = b""
    if exchange.votes:
        summed = ballot(update, exchange.vote, exchange.seed(1))
        blocks = encode_indices(winners(summed, exchange.vote, 1, exchange.seed(1)), exchange.vote.blocks)

    def send() -> None:
        outbox = Outbox(exchange, masked)  # type: ignore[arg-type]
        outbox.hold(1, memoryview(update).cast("B"), SiteReport(1))
        outbox.begin(m.Begin(1, 1, (0.1,)))
        outbox.next(b"")
        if exchange.votes:
            outbox.choose(m.Support(1, 1, blocks))
            outbox.next(b"")

    return milliseconds(send)


def keeping(update: np.ndarray) -> tuple[float, float]:
    """Median milliseconds of keeping the residual and what would become of it, and those of this thread's CPU."""
    feedback = ErrorFeedback(update.size)
    feedback.propose(1, feedback.with_residual(update), np.arange(1), update[:1])
    took, worked = [], []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file = PendingUpdateFile(Path(folder) / "unsettled", "run", "site")
        for _ in range(9):
            start, cpu = time.perf_counter(), time.thread_time()
            file.write(1, feedback.state_dict(), None)
            took.append(time.perf_counter() - start)
            worked.append(time.thread_time() - cpu)
    return 1e3 * median(took), 1e3 * median(worked)


def naive_rounding(values: torch.Tensor, step: float) -> torch.Tensor:
    scaled = values / step
    lower = scaled.floor()
    return (lower + (torch.rand(values.numel()) < scaled - lower)).to(torch.int32)


def main() -> None:
    torch.set_num_threads(1)
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 11_200_000
    tensor = 0.01 * torch.randn(size, generator=torch.Generator().manual_seed(0))
    update = tensor.numpy()
    norm = milliseconds(lambda: torch.linalg.vector_norm(tensor))
    print(f"{size} parameters, one thread; float32 norm: {norm:.2f} ms\n")
    print(f"{'kernel':<52}{'ms':>8}{'norms':>8}")

    def row(name: str, call: Callable[[], object], repeat: int = 7) -> float:
        ms = milliseconds(call, repeat)
        print(f"{name:<52}{ms:>8.2f}{ms / norm:>8.1f}")
        return ms

    row("naive stochastic rounding (torch)", lambda: naive_rounding(tensor, 1e-4), 2)
    row("naive selection of 1 % (torch.topk)", lambda: torch.topk(tensor.abs(), size // 100), 2)
    row("clip by norm", lambda: clip_by_norm(update, 1.0))

    dense: dict[int, float] = {}
    for bits in (8, 12, 16, 20, 24, 32):
        code = FixedPoint(bits, SITES, 0.1)
        out = np.empty(size, dtype=word_dtype(bits))
        dense[bits] = row(f"encode, ring of {bits} bits", lambda code=code, out=out: encode(update, code, out))
        row(f"decode, ring of {bits} bits", lambda code=code, out=out: decode_sum(out, code, SITES))
    random = np.random.default_rng(0).integers(0, 1 << 32, size, dtype=np.uint32)
    for bits in (4, 8, 11, 12, 16, 20, 24, 31, 32):
        words = (random & np.uint32((1 << bits) - 1)).astype(word_dtype(bits))
        packing = row(f"pack, {bits} bits", lambda words=words, bits=bits: pack(words, bits))
        dense[bits] = dense.get(bits, 0.0) + packing
        data = pack(words, bits)
        row(f"unpack, {bits} bits", lambda data=data, bits=bits: unpack(data, bits, size))

    count = size // 100
    select = row("select 1 % (own support)", lambda: largest(update, count))
    support = largest(update, count)
    values = update[support]
    index = row("code the indices", lambda: encode_indices(support, size))
    data = encode_indices(support, size)
    row("decode the indices", lambda: decode_indices(data, size, count))
    quantised = {}
    for kind in ("float32", "bf16", "int8", "int4"):
        quantised[kind] = row(f"quantise the values, {kind}", lambda kind=kind: quantise(values, kind))
        coded = quantise(values, kind)
        row(f"dequantise the values, {kind}", lambda kind=kind, coded=coded: dequantise(coded, kind, count))
    for kind in ("bf16", "int8", "int4"):
        row(f"quantise all values, {kind}", lambda kind=kind: quantise(update, kind))
    row("shared random 1 %", lambda: shared_random(size, count, b"seed"))
    feedback = ErrorFeedback(size)

    def keep_residual() -> None:
        feedback.propose(0, feedback.with_residual(update), support, values)

    residual = row("add and keep the residual", keep_residual)

    vote = BlockVote(size, 32, size // 32 // 20, SITES)
    votes = row("ballot, blocks of 32, 5 %", lambda: ballot(update, vote, b"seed"))
    summed = ballot(update, vote, b"seed")
    row("winners, blocks of 32, 5 %", lambda: winners(summed, vote, 1, b"seed"))
    chosen = coordinates(winners(summed, vote, 1, b"seed"), vote)
    code = FixedPoint(8, SITES, 0.1)

    def send() -> bytes:
        return pack(encode(update[coordinates(winners(summed, vote, 1, b"seed"), vote)], code)[0], 8)

    sending = row("winners, gather, encode and pack, 8 bits", send)

    print(f"\n{'in all, goal 70 norms':<52}{'ms':>8}{'norms':>8}")
    totals = {
        "own support 1 %, int8: select, indices, values": select + index + quantised["int8"],
        f"secure vote, {chosen.size / size:.1%} at 8 bits: ballot, send": votes + sending,
        **{f"dense ring of {bits} bits: encode, pack": dense[bits] for bits in (8, 12, 16, 20, 24, 32)},
    }
    for name, ms in totals.items():
        print(f"{name:<52}{ms:>8.2f}{ms / norm:>8.1f}")
    print(f"{'(and the residual, where error feedback is on)':<52}{residual:>8.2f}{residual / norm:>8.1f}")
    off, ring = Masking("off"), Masking("required", 8)
    paths = {
        "outbox, own support 1 %, int8": whole_path(update, Compression("topk", 0.01, "int8"), off),
        "outbox, own support 1 %, int4": whole_path(update, Compression("topk", 0.01, "int4"), off),
        "outbox, random-k 5 %, ring of 8 bits": whole_path(update, Compression("randomk", 0.05), ring),
        "outbox, vote 5 % in blocks of 32, ring of 8 bits": whole_path(update, Compression("vote", 0.05), ring),
        "outbox, vote 6.6 % in blocks of 32, ring of 8 bits": whole_path(update, Compression("vote", 0.066), ring),
        "outbox, dense, ring of 16 bits": whole_path(update, Compression(), Masking("required", 16)),
    }
    print(f"\n{'the whole path, masks apart, goal 70 norms':<52}{'ms':>8}{'norms':>8}")
    for name, ms in paths.items():
        print(f"{name:<52}{ms:>8.2f}{ms / norm:>8.1f}")
    totals |= paths
    print("\nkept on the disk before an update leaves: {:.0f} ms, of which {:.0f} ms of CPU".format(*keeping(update)))
    print(f"\nindices: {8 * len(data) / count:.2f} bits each")
    sys.exit(any(ms > GOAL_NORMS * norm for ms in totals.values()))


if __name__ == "__main__":
    main()
