"""How the values of an update are written where they are not masked."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


class ValueCodec(ABC):
    """Makes bytes of an update's values and values of the bytes again.

    A codec of another package is a frozen dataclass that derives from this class; its fields are its settings. What
    rounding takes from a value stays at the site, in its residual, so a codec need not be exact.

    Attributes:
        version: what all sites must agree on; the version of the package that brought it if not given.
    """

    version: ClassVar[str]

    @abstractmethod
    def nbytes(self, count: int) -> int:
        """Bytes of ``count`` values, at least 1: all sites' updates must be of known size."""

    @abstractmethod
    def encode(self, values: NDArray[np.float32]) -> bytes:
        """``nbytes(k)`` bytes of k values, float32, shape ``(k,)``, finite."""

    @abstractmethod
    def decode(self, data: memoryview, count: int) -> NDArray[np.float32]:
        """The values, float32, shape ``(count,)``, of ``nbytes(count)`` bytes that came over the line.

        Raises:
            ProtocolError: they are not what ``encode`` writes.
        """
