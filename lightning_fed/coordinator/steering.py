"""The door at which a coordinator's operator steers it: a Unix socket in the store's folder, for its owner alone.

One connection, one command: a line of JSON there, a line of JSON back. Without torch.
"""

import logging
import os
import pwd
import queue
import socket
import socketserver
import stat
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from lightning_fed.errors import ConfigError, ConnectionLostError, FederationError, StoreError
from lightning_fed.protocol.coordinator.steering import AnyCommand, Operator

_log = logging.getLogger(__name__)

_FOLDER, _SOCKET = "admin", "socket"

_LONGEST_PATH = 100
"""Bytes of a socket's path that every operating system takes (Linux 107, macOS 103)."""

_LONGEST_LINE = 8192

_SPEAK_S = 5.0
"""How long a connection may take to say its command."""

_ANSWER_S = 60.0
"""How long a command may wait for its turn: aggregation of a large model, and a disk that is full, take time."""

_decoder: "msgspec.json.Decoder[AnyCommand]" = msgspec.json.Decoder(AnyCommand)


class _Answer(msgspec.Struct, frozen=True):
    done: bool
    text: str


_answers = msgspec.json.Decoder(_Answer)


class Asked(NamedTuple):
    """A command that waits for its turn.

    Attributes:
        command: the command.
        by: whose process it came from, as the operating system says.
        said: to be given what came of it, in words, or a ``ConfigError``.
    """

    command: AnyCommand
    by: Operator
    said: "Future[str]"


class Door:
    """Listens until it is closed; commands are taken by ``asked``.

    Args:
        store: the store's folder, which this process has locked.

    Raises:
        StoreError: no socket can be made there.
    """

    def __init__(self, store: Path) -> None:
        self._waiting: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self._path = store / _FOLDER / _SOCKET
        _make_private(self._path.parent)
        try:
            # Of a coordinator that was killed: the store's lock says that none is there.
            self._path.unlink(missing_ok=True)
            with _reachable(self._path) as address:
                self._server = _Server(address, self._waiting)
            self._path.chmod(0o600)
        except OSError as error:
            raise StoreError(f"no socket can be made at {self._path}: {error.strerror or error}.") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="lightning_fed-steering", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "Door":
        """It is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; whoever still waits is told that the coordinator has ended."""
        self._server.shutdown()
        self._thread.join()
        for asked in self.asked():
            asked.said.cancel()
        self._server.server_close()
        self._path.unlink(missing_ok=True)

    def asked(self) -> Iterator[Asked]:
        """The commands that have come."""
        with suppress(queue.Empty):
            while True:
                yield self._waiting.get_nowait()


def ask(store: Path, command: AnyCommand) -> str:
    """Have the coordinator of a store do something, and return what came of it, in words.

    Raises:
        ConfigError: it cannot be done; the text says why.
        ConnectionLostError: no coordinator runs there, or it did not answer.
        StoreError: it is somebody else's.
    """
    path = store / _FOLDER / _SOCKET
    try:
        with _reachable(path) as address, socket.socket(socket.AF_UNIX) as line:
            line.settimeout(_ANSWER_S + _SPEAK_S)
            line.connect(address)
            line.sendall(msgspec.json.encode(command) + b"\n")
            heard = line.makefile("rb").readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ConnectionLostError(
            f"no coordinator runs on the store {store}. Start it (lightning-fed coordinate), then steer it."
        ) from error
    except PermissionError as error:
        raise StoreError(
            f"{path} is for the user alone who runs the coordinator, and you are {user_name(os.geteuid())!r}. Run this "
            "command as that user."
        ) from error
    except OSError as error:
        raise ConnectionLostError(f"the coordinator of {store} does not answer: {error.strerror or error}.") from error
    if not heard:
        raise ConnectionLostError(f"the coordinator of {store} ended before it answered. Its event log says how far.")
    answer = _answers.decode(heard)
    if not answer.done:
        raise ConfigError(answer.text)
    return answer.text


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    def __init__(self, address: str, waiting: "queue.SimpleQueue[Asked]") -> None:
        self.waiting = waiting
        super().__init__(address, _Conversation)


class _Conversation(socketserver.StreamRequestHandler):
    timeout = _SPEAK_S
    server: _Server

    def handle(self) -> None:
        try:
            answer = self._answer()
            self.wfile.write(msgspec.json.encode(answer) + b"\n")
        except OSError as error:
            _log.info("a command's sender has gone: %s", error)

    def _answer(self) -> _Answer:
        by = _peer(self.request)
        # Read in any case: who is still speaking would not hear the answer.
        line = self.rfile.readline(_LONGEST_LINE)
        # The folder's mode keeps all others out; if somebody has loosened it, this does.
        if by.uid not in (os.geteuid(), 0):
            return _Answer(
                done=False, text=f"only {user_name(os.geteuid())!r}, who runs the coordinator, may steer it."
            )
        try:
            command = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return _Answer(done=False, text=f"that is no command of this version: {error}.")
        said: Future[str] = Future()
        self.server.waiting.put(Asked(command, by, said))
        try:
            return _Answer(done=True, text=said.result(_ANSWER_S))
        except FederationError as error:
            return _Answer(done=False, text=str(error))
        except CancelledError:
            return _Answer(done=False, text="the coordinator ended before it came to that.")
        except TimeoutError:
            return _Answer(
                done=False,
                text=f"the coordinator did not come to it within {_ANSWER_S:.0f} s: it is at work, or its disk takes "
                "nothing. It will do it as soon as it goes on; its event log (steered) tells.",
            )


def _peer(line: socket.socket) -> Operator:
    """Whose process is at the other end."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    else:
        uid = os.geteuid()  # the socket's mode lets nobody else in
    return Operator(user_name(uid), uid)


def user_name(uid: int) -> str:
    """The name of a user of this machine; the number, where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)  # in a container there need be no name


def _make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter.

    Raises:
        StoreError: there is something else, or it is another user's.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StoreError(
                f"{folder} is no folder of {user_name(os.geteuid())!r}, who runs the coordinator. Remove it."
            )
        folder.chmod(0o700)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made for its owner alone: {error.strerror}.") from error


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """An address for a socket whose path may be longer than the operating system takes for one.

    Raises:
        OSError: the folder cannot be opened, or the path is too long and there is no way around it.
    """
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = Path(f"/proc/self/fd/{folder}")
        if not short.exists():
            raise OSError(f"the path is longer than {_LONGEST_PATH} bytes; give the store a shorter one")
        yield str(short / path.name)
    finally:
        os.close(folder)
