"""Sites that count, each in a process of its own."""

import os
import signal
from pathlib import Path

from modules import train_graded

from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.statistics import StatisticsSite
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster


def counts(arguments, folder, rows, policy):
    """Take part as a site with these rows."""
    site = StatisticsSite(_own(arguments, policy), policy, lambda statistics: rows, folder / "ledger.jsonl", print)
    site.take_part(site.connected(arguments["coordinator"], 60.0))
    return "counted"


def dies_in_the_round(arguments, folder, policy):
    """Join, and be killed when the round begins."""
    site = StatisticsSite(_own(arguments, policy), policy, lambda statistics: [], folder / "ledger.jsonl", print)
    connection = site.connected(arguments["coordinator"], 60.0)
    submit = connection.call

    def killed(what):
        if connection.read(lambda session: session.begun):
            os.kill(os.getpid(), signal.SIGKILL)
        submit(what)

    connection.call = killed
    site.take_part(connection)


def trains(arguments, folder, policy):
    """Take part as a site that has misunderstood what the federation is for."""
    return train_graded({**arguments, "policy": policy}, folder, 0)


def _own(arguments, policy):
    roster = Roster.load(Path(arguments["roster"]))
    return OwnRoster(roster, load_identity(arguments["identity"]), policy)
