"""Where too few files may be open, libzmq ends the process without a word; so that is looked at before."""

import multiprocessing
import resource
from pathlib import Path

import pytest

from lightning_fed.errors import ConnectionLostError
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection

COORDINATOR, SITE = new_identity("coordinator"), new_identity("site-0")
ROSTER = Roster.of(COORDINATOR.card, [SITE.card])


def open_hub():
    Hub("tcp://127.0.0.1:0", COORDINATOR, ROSTER).close()


def open_connection():
    session = SiteSession("site-0", "process", "0", SITE.signing_key, ROSTER.members)
    SiteConnection("tcp://127.0.0.1:9", SITE, COORDINATOR.card, session, 30.0, print).close()


def open_with(free, open_it, answer):
    """In a process of its own, as a limit that was lowered stays so."""
    used = max(int(file.name) for file in Path("/dev/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, used + free))
    try:
        open_it()
    except ConnectionLostError as error:
        answer.send(str(error))
    else:
        answer.send("opened")


@pytest.mark.parametrize("open_it", [open_hub, open_connection])
def test_with_any_number_of_free_files_it_opens_or_says_what_to_do(open_it):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "lightning_fed.transport.hub", "lightning_fed.transport.site"])
    said = {}
    for free in (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 64):
        ours, theirs = context.Pipe()
        process = context.Process(target=open_with, args=(free, open_it, theirs))
        process.start()
        theirs.close()
        try:
            said[free] = ours.recv()
        except EOFError:
            said[free] = "ended without a word"
        process.join()
    refused = [free for free, what in said.items() if "Raise the limit of open files (ulimit -n)" in what]
    opened = [free for free, what in said.items() if what == "opened"]
    assert refused and opened and sorted(refused + opened) == list(said), said
