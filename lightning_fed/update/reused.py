"""Memory for one large vector after the other."""

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ReusedMemory:
    """Gives out vectors in the same memory, each once nothing refers to the one before.

    The kernel clears what it hands out, which takes longer than most of what is done with a vector. ``malloc`` would
    keep what was freed, too, but anew for each thread that asks.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._lent: weakref.ref[NDArray[Any]] | None = None

    def empty(self, size: int, dtype: "np.dtype[Any]") -> NDArray[Any]:
        """A vector, shape ``(size,)``, whose values are whatever was there.

        In memory of its own where a message on its way still holds the one before, or a part of it.
        """
        nbytes = size * dtype.itemsize
        if self._memory.nbytes != nbytes or (self._lent is not None and self._lent() is not None):
            self._memory = np.empty(nbytes, np.uint8)
        # Over a memoryview, so that what is cut out of the vector refers to it and not to the memory.
        vector = np.frombuffer(memoryview(self._memory), dtype)  # type: ignore[arg-type]
        self._lent = weakref.ref(vector)
        return vector
