"""Uniform random words for noise, from a cryptographically secure generator."""

import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import DTypeLike, NDArray

_PIECE = 1 << 18
_ZEROS = bytes(_PIECE)


class RandomStream:
    """AES-256 in counter mode under a fresh key of 256 bits from the operating system.

    There is deliberately no seed: whoever can reproduce the noise can subtract it. A stream is made for one draw and
    then forgotten, so that two processes that come from one ``fork`` never share a key.

    Source: NIST SP 800-38A, section 6.5.
    """

    def __init__(self) -> None:
        self._encryptor = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """Independent uniform unsigned integers, shape ``(count,)``, of an unsigned ``dtype``."""
        words = np.empty(count, dtype=dtype)
        view = words.view(np.uint8).data
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self._encryptor.update_into(_ZEROS[: len(piece)], piece)
        return words
