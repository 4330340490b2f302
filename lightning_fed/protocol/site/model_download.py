"""The newest global model on its way to a site: whole or as a difference, with its control variate if it has one."""

from dataclasses import dataclass

import numpy as np

from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.downloads import Downloads
from lightning_fed.update.delta import apply_delta


@dataclass(frozen=True)
class Arrived:
    """A global model: its version, and the float32 bytes of its values and of its control variate, if it has one."""

    version: int
    model: memoryview
    control: memoryview


class ModelDownload:
    """Puts together what a site fetches of a global model.

    Args:
        downloads: the site's streams.
    """

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
        self._version = 0
        self._before: memoryview | None = None
        self._model: memoryview | None = None
        self._control: memoryview | None = None

    def start(self, message: m.Model, held: tuple[int, memoryview] | None) -> list[m.Fetch]:
        """Fetch a model, if possible as its difference from the one that the site holds; an older one is forgotten."""
        self._version, self._model, self._before = message.version, None, None
        self._control = None if message.control else memoryview(b"")
        if message.delta and held and held[0] == message.version - 1:
            self._before = held[1]
            fetches = self._downloads.start("delta", message.version, message.delta)
        else:
            fetches = self._downloads.start("model", message.version, message.nbytes)
        if message.control:
            fetches += self._downloads.start("control", message.version, message.nbytes)
        return fetches

    def take(self, stream: m.Stream, version: int, data: memoryview) -> Arrived | None:
        """A stream came whole: the model, if nothing is missing now.

        Raises:
            ProtocolError: the difference does not fit.
        """
        if version != self._version:
            return None  # the end of a model that a newer one replaced
        if stream == "control":
            self._control = data
        elif stream == "delta":
            assert self._before is not None
            model = apply_delta(np.frombuffer(self._before, np.float32), data)
            self._model = memoryview(model).cast("B")  # type: ignore[arg-type]
        else:
            self._model = data
        if self._model is None or self._control is None:
            return None
        arrived = Arrived(version, self._model, self._control)
        self._before = self._model = self._control = None
        return arrived
