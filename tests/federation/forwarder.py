"""A TCP forwarder, as hospitals have them before a coordinator: it accepts first, and looks for the target then."""

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit


class Forwarder:
    """Listens on loopback, and forwards bytes to an address; without it, it accepts and closes at once.

    Attributes:
        address: where it listens, like ``tcp://127.0.0.1:port``.
        in_vain: connections that it closed because nobody was behind it, or because it refuses.
        refuses: accepts and closes, whoever is behind it.
        carried: how many pieces went to each end.
        delay_s: holds every piece back for so many seconds.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lines: set[_Line] = set()
        self.in_vain = 0
        self.carried = {"site": 0, "coordinator": 0}
        self.refuses = False
        self.delay_s = 0.0
        self.changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Forget the connections there are without a word to either end, as a machine that lost power does."""
        for line in self._lines.copy():
            line.stalled = True

    def cut(self) -> None:
        """End the connections there are, at both ends."""
        for line in self._lines.copy():
            line.end()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which closing does not
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                site, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.refuses:
                    raise ConnectionRefusedError
                coordinator = socket.create_connection(self._target)
            except OSError:
                site.close()
                with self.changed:
                    self.in_vain += 1
                    self.changed.notify_all()
                continue
            line = _Line(site, coordinator)
            self._lines.add(line)
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: "_Line") -> None:
        back = threading.Thread(target=self._forward, args=(line, line.coordinator, line.site), daemon=True)
        back.start()
        self._forward(line, line.site, line.coordinator)
        back.join()
        self._lines.discard(line)
        line.site.close()
        line.coordinator.close()

    def _forward(self, line: "_Line", source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                time.sleep(self.delay_s)
                if not line.stalled:
                    sink.sendall(data)
                    with self.changed:
                        self.carried["site" if sink is line.site else "coordinator"] += 1
                        self.changed.notify_all()
        except OSError:
            pass
        if not line.stalled:
            line.end()


class _Line:
    """The two connections of one that was forwarded; once stalled, neither end hears of the other again."""

    def __init__(self, site: socket.socket, coordinator: socket.socket) -> None:
        self.site = site
        self.coordinator = coordinator
        self.stalled = False

    def end(self) -> None:
        for one in (self.site, self.coordinator):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
