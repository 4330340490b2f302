"""A TCP forwarder, as hospitals have them before a coordinator: it accepts first, and looks for the target then."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Forwarder:
    """Listens on loopback, and forwards bytes to an address; without it, it accepts and closes at once.

    Attributes:
        address: where it listens, like ``tcp://127.0.0.1:port``.
        in_vain: connections that it closed because nobody was behind it.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._stalled = False
        self.in_vain = 0
        self.changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Forget the connections there are without a word to either end, as a machine that lost power does."""
        self._stalled = True

    def close(self) -> None:
        self._listener.close()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                site, _ = self._listener.accept()
            except OSError:
                return
            try:
                coordinator = socket.create_connection(self._target)
            except OSError:
                site.close()
                with self.changed:
                    self.in_vain += 1
                    self.changed.notify_all()
                continue
            self._open += [site, coordinator]
            for source, sink in ((site, coordinator), (coordinator, site)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if self._stalled:
                    return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            if not self._stalled:
                for one in (source, sink):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
