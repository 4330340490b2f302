"""Bounded MessagePack, for the messages of the protocol and for those of the masked sums inside them.

A message is walked through once before it is decoded. The decoder recurses into what it is given, also into fields that
it does not know and will refuse, so the depth and the number of elements must be known to be small before.

Beside it the hash by which both sides know that they have the same settings.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from lightning_fed.errors import ProtocolError

MAX_MESSAGE_BYTES = 4 << 20
"""Largest message, its chunk apart: room for the layout of a model with tens of thousands of tensors."""

MAX_DEPTH = 16
"""Levels of arrays and maps; the deepest message, a layout, has five."""

MAX_ELEMENTS = 1 << 19
"""Keys and values of all arrays and maps of a message together: a layout of 2 x 16,384 tensors has 300,000."""

_Decoded = TypeVar("_Decoded")

_encoder = msgspec.msgpack.Encoder()


def encoded(message: msgspec.Struct, remedy: str) -> bytes:
    """MessagePack bytes of a message.

    Args:
        message: the message.
        remedy: what to do if it is too large.

    Raises:
        ProtocolError: the message is larger than any receiver accepts.
    """
    data = _encoder.encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(
            f"a {type(message).__name__} message of {len(data)} bytes is above the limit of {MAX_MESSAGE_BYTES}. "
            f"{remedy}"
        )
    return data


def hash_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a plan's canonical JSON bytes, hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(settings, order="sorted")).hexdigest()


def decoded(decoder: "msgspec.msgpack.Decoder[_Decoded]", data: bytes, what: str) -> _Decoded:
    """The message in ``data``; ``what`` names its kind in errors.

    Raises:
        ProtocolError: the bytes are too many, too deeply nested, of too many elements, or not such a message.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"{what} of {len(data)} bytes is above the limit of {MAX_MESSAGE_BYTES}.")
    _check_structure(data, what)
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{what} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        # This error carries the whole message, which may hold shares of a masking key, so it is not chained.
        raise ProtocolError(f"{what} cannot be read: text at byte {error.start} is not UTF-8.") from None


def _check_structure(data: bytes, what: str) -> None:
    """Walk through the first object of ``data``, in time linear in its elements and without recursion.

    What is cut short is left to the decoder to name.

    Raises:
        ProtocolError: more levels than ``MAX_DEPTH`` or more elements than ``MAX_ELEMENTS``.
    """
    position, size, elements = 0, len(data), 0
    left = 1
    outer: list[int] = []
    while True:
        while not left:
            if not outer:
                return
            left = outer.pop()
        if position >= size:
            return
        first = data[position]
        left -= 1
        step = _STEPS[first]
        if step:
            position += step
            continue
        header, item = _HEADERS[first]
        count = int.from_bytes(data[position + 1 : position + 1 + header], "big") if header else first & 0x0F
        position += 1 + header
        if first in _CONTAINERS:
            count *= item
            elements += count
            if elements > MAX_ELEMENTS:
                raise ProtocolError(f"{what} of {elements} elements is above the limit of {MAX_ELEMENTS}.")
            if len(outer) >= MAX_DEPTH:
                raise ProtocolError(f"{what} of {len(outer) + 1} levels or more is above the limit of {MAX_DEPTH}.")
            outer.append(left)
            left = count
        else:
            position += item + count


def _steps() -> list[int]:
    """By first byte, the bytes of an object that this byte alone tells; 0 for the others.

    Source: the MessagePack specification, https://github.com/msgpack/msgpack/blob/master/spec.md.
    """
    steps = [1] * 256
    steps[0x80:0xA0] = [0] * 32  # maps and arrays of up to 15
    steps[0xA0:0xC0] = range(1, 33)  # texts of up to 31 bytes
    steps[0xC4:0xCA] = [0] * 6  # bytes and extensions that say their length
    steps[0xCA:0xD4] = [5, 9, 2, 3, 5, 9, 2, 3, 5, 9]  # floats and integers
    steps[0xD4:0xD9] = [3, 4, 6, 10, 18]  # extensions of a fixed length
    steps[0xD9:0xE0] = [0] * 7  # texts, arrays and maps that say their length
    return steps


_STEPS = _steps()

_CONTAINERS = frozenset([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])

_HEADERS = {
    **dict.fromkeys(range(0x80, 0x90), (0, 2)),
    **dict.fromkeys(range(0x90, 0xA0), (0, 1)),
    **{0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)},
    **{0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)},
    **{0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)},
}
"""By first byte, the bytes that hold the length, and: of a container, the objects of an element; of others, the bytes
beside header and length."""
