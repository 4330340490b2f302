"""Sites that charge a ledger and are killed: a process that loads the package once and forks one victim an order.

An order on stdin: ``folder instant cut``. The victim charges and releases until SIGKILL reaches it. ``instant`` counts
the calls to the operating system that matter (write of the ledger, fsync of the ledger, the release itself): the victim
kills itself at that one, after ``cut`` bytes of it if it is a write. ``instant`` 0: the parent kills it, without any
agreement about the moment, as soon as it has seen ``cut`` releases.
"""

import os
import signal
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Release

MECHANISM = DpSgd(0.01, 1.0, 10)
OWNER = Owner("st-marys", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
WRITE, SYNC = os.write, os.fsync


class Fate:
    def __init__(self, instant: int, cut: int):
        self.instant, self.cut, self.now = instant, cut, 0

    def due(self) -> bool:
        self.now += 1
        return self.now == self.instant

    def write(self, fd, data):
        if self.due():
            if self.cut:
                WRITE(fd, bytes(data)[: self.cut])
            os.kill(os.getpid(), signal.SIGKILL)
        return WRITE(fd, data)

    def sync(self, fd):
        if self.due():
            os.kill(os.getpid(), signal.SIGKILL)
        SYNC(fd)


def victim(folder: Path, fate: Fate, releases: int) -> None:
    ledger = Ledger.open(folder / "ledger.jsonl", OWNER, "fed", {"example": Budget(1e-5)})
    os.write, os.fsync = fate.write, fate.sync
    for number in range(200):
        ledger.charge(Release("run", "0" * 64, number, 1, MECHANISM))
        if fate.due():
            os.kill(os.getpid(), signal.SIGKILL)
        WRITE(releases, b"x")


def main() -> None:
    epsilon([MECHANISM], 1e-5)  # worked out once, for all victims
    for order in sys.stdin:
        name, instant, cut = order.split()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            victim(Path(name), Fate(int(instant), int(cut)), write)
            os._exit(1)
        os.close(write)
        released = 0
        while chunk := os.read(read, 1):
            released += len(chunk)
            if int(instant) == 0 and released == int(cut):
                os.kill(child, signal.SIGKILL)
        os.close(read)
        _, status = os.waitpid(child, 0)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(released if died else -1, flush=True)


if __name__ == "__main__":
    main()
