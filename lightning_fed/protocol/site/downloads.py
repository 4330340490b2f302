"""Streams on their way down to a site."""

from dataclasses import dataclass

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.streams import Assembly, chunk_count


@dataclass
class _Download:
    """One stream; ``asked`` counts the chunks asked for."""

    version: int
    assembly: Assembly
    asked: int = 0


class Downloads:
    """The streams a site fetches: of each kind at most one, the newest."""

    def __init__(self) -> None:
        self._running: dict[m.Stream, _Download] = {}

    def start(self, stream: m.Stream, version: int, nbytes: int) -> list[m.Fetch]:
        """Fetch a stream of so many bytes; what was fetched of an older one is forgotten."""
        self._running[stream] = _Download(version, Assembly(nbytes))
        return self._ask(stream)

    def chunk(self, chunk: m.Chunk, payload: memoryview | None) -> tuple[list[m.Fetch], memoryview | None]:
        """Take a piece; the whole stream when it was the last one.

        Raises:
            ProtocolError: the piece was not asked for, or is empty.
        """
        download = self._running.get(chunk.stream)
        if download is None or download.version != chunk.version:
            return [], None  # the tail of a stream that a newer one replaced
        if payload is None or chunk.index >= download.asked:
            raise ProtocolError(
                f"chunk {chunk.index} of {chunk.stream} {chunk.version} came without being asked for, or empty."
            )
        download.assembly.add(chunk.index, payload)
        if not download.assembly.complete:
            return self._ask(chunk.stream), None
        del self._running[chunk.stream]
        return [], download.assembly.data

    def clear(self) -> None:
        """Forget everything."""
        self._running.clear()

    def _ask(self, stream: m.Stream) -> list[m.Fetch]:
        download = self._running[stream]
        total = chunk_count(download.assembly.nbytes)
        under_way = download.asked - download.assembly.received
        if download.asked == total or under_way > m.WINDOW // 2:
            return []
        count = min(m.WINDOW - under_way, total - download.asked)
        ask = m.Fetch(stream, download.version, download.asked, count)
        download.asked += count
        return [ask]
