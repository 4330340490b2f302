"""Bounded MessagePack, for the messages of the protocol and for those of the masked sums inside them."""

from typing import TypeVar

import msgspec

from lightning_fed.errors import ProtocolError

MAX_MESSAGE_BYTES = 4 << 20
"""Largest message, its chunk apart: room for the layout of a model with tens of thousands of tensors."""

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


def decoded(decoder: "msgspec.msgpack.Decoder[_Decoded]", data: bytes, what: str) -> _Decoded:
    """The message in ``data``; ``what`` names its kind in errors.

    Raises:
        ProtocolError: the bytes are too many, or not such a message.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"{what} of {len(data)} bytes is above the limit of {MAX_MESSAGE_BYTES}.")
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{what} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        # This error carries the whole message, which may hold shares of a masking key, so it is not chained.
        raise ProtocolError(f"{what} cannot be read: text at byte {error.start} is not UTF-8.") from None
