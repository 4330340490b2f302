"""Inputs that almost fit: messages of real rounds, changed in their bytes or in their structure."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

NUMBERS = [-(1 << 63), -(1 << 31), -2, -1, 0, 1, 2, 3, 31, 32, 33, 255, 256, 4096, 1 << 16, (1 << 31) - 1, 1 << 31]
NUMBERS += [1 << 32, (1 << 32) + 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e12, 1e308, -1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = ["", "a", "site-0", "site-1", "site-3", "update", "vote", "metrics", "model", "delta", "control", "frozen"]
TEXTS += ["initial", "done", "failed", "weight", "float32", "val_loss", "\x1b[2J", "\u202e", "x" * 129, "y" * 1000]
LENGTHS = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 1000]

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


def value(rng: random.Random, depth: int = 0) -> Any:
    """Some value that MessagePack can say."""
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(FLOATS)
    if kind == 2:
        return rng.choice(TEXTS)
    if kind == 3:
        return rng.randbytes(rng.choice(LENGTHS))
    if kind == 4:
        return rng.choice([None, True, False])
    if kind == 5:
        return rng.randrange(-4, 40)
    if kind == 6:
        return rng.random()
    if kind == 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def changed_structure(rng: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """One part of a message changed, taken out, doubled, put elsewhere or taken from another message."""
    try:
        message = _unpack(data)
        other = _unpack(rng.choice(corpus))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return changed_bytes(rng, data, corpus)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        message = _with_one_change(rng, message, other)
    try:
        return _pack(message)
    except (OverflowError, TypeError, RecursionError):
        return data  # too large a number, a list as a key, a part within itself


def _with_one_change(rng: random.Random, message: Any, other: Any) -> Any:
    places = _places(message)
    if not places:
        return value(rng)
    container, key = rng.choice(places)
    what = rng.randrange(8)
    if what == 0:
        del container[key]
    elif what == 1:
        theirs = _places(other)
        if theirs:
            theirs_container, theirs_key = rng.choice(theirs)
            container[key] = theirs_container[theirs_key]
    elif what == 2 and isinstance(container, list):
        container.insert(key, container[key])
    elif what == 2:
        container[rng.choice(TEXTS)] = container[key]
    elif what == 3 and isinstance(container[key], int) and not isinstance(container[key], bool):
        container[key] += rng.choice((-1, 1))
    elif what == 3 and isinstance(container[key], bytes):
        container[key] = changed_bytes(rng, container[key], [container[key]])
    elif what == 4 and isinstance(container[key], bytes) and len(container[key]) > 100:
        # A masking step is a message inside of a message.
        container[key] = changed_structure(rng, container[key], [container[key]])
    else:
        container[key] = value(rng)
    return message


def _places(message: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [message] if isinstance(message, (dict, list)) else []
    while waiting and len(found) < 200:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                waiting.append(container[key])
    return found


def changed_bytes(rng: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Bytes flipped, taken out, put in, cut off, or joined with another message's."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        what = rng.randrange(8)
        if what == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif what == 1 and changed:
            changed[at % len(changed)] = rng.choice(
                b"\x00\x7f\x80\x81\x90\x91\xa0\xc0\xc1\xc4\xc6\xc7\xcb\xdb\xdd\xdf\xff"
            )
        elif what == 2:
            del changed[at : at + rng.randrange(9)]
        elif what == 3:
            changed[at:at] = rng.randbytes(rng.randrange(9))
        elif what == 4:
            del changed[at:]
        elif what == 5:
            other = rng.choice(corpus)
            changed[at:] = other[rng.randrange(len(other) + 1) :]
        elif what == 6:
            changed[at:at] = rng.choice((b"\x91", b"\x81\xa1z", b"\xdc\x00\x01")) * rng.choice((1, 15, 17, 300))
        else:
            changed += changed[at : at + 64]
    return bytes(changed)


def random_bytes(rng: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Anything."""
    return rng.randbytes(rng.choice(LENGTHS))


def unchanged(rng: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """The message as it was sent, when it should not be."""
    return data


Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

MUTATIONS: list[Mutation] = [changed_structure] * 5 + [changed_bytes] * 2 + [unchanged] * 2 + [random_bytes]


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """A message of the corpus, changed in one of these ways."""
    return rng.choice(MUTATIONS)(rng, rng.choice(corpus), corpus)
