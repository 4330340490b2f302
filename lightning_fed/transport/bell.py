"""Wakes a thread that waits for sockets."""

import contextlib
import socket


class Bell:
    """Can be rung from any thread; whoever polls it hears that, and quiets it before looking what there is."""

    def __init__(self) -> None:
        self._rope, self._ear = socket.socketpair()
        self._rope.setblocking(False)
        self._ear.setblocking(False)

    def ring(self) -> None:
        """Wake whoever waits."""
        # A full pipe means that it has been woken already.
        with contextlib.suppress(BlockingIOError):
            self._rope.send(b"\0")

    def quiet(self) -> None:
        """Hear no more what was rung before."""
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._ear.fileno()

    def close(self) -> None:
        """Nobody waits any more, and nobody rings."""
        self._rope.close()
        self._ear.close()
