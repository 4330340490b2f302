"""A sum that sites have let be opened, and that their coordinator denies: they remember it when they start again."""

import os
import stat

import pytest
import torch
from modules import Plain, train
from processes import Program

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.participant.signed_sums_file import SignedSumsFile
from lightning_fed.plan import Masking
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.contribution import Contribution

pytestmark = pytest.mark.chaos

DIED = 7


def coordinate_and_keep_the_sums(plan, address, keys, store, folder, dies):
    """Writes each opened sum down; if it ``dies``, it does so then, and its store knows of no such round."""
    decode = Contribution.decode

    def kept(self, words, survivors):
        decoded = decode(self, words, survivors)
        folder.mkdir(exist_ok=True)
        torch.save(decoded.values, folder / f"{len(list(folder.iterdir()))}.pt")
        return decoded

    Contribution.decode = kept
    if dies:
        CoordinatorSession._complete = lambda self: os._exit(DIED)
    identity, roster = load_identity(keys / "coordinator.key"), Roster.load(keys / "roster.yaml")
    Coordinator(plan, address=address, identity=identity, roster=roster, store=store, initial=Plain()).run()
    return "finished"


def test_killed_sites_do_not_open_a_round_again_without_one_of_them_and_go_on_with_it(federation):
    here = federation(
        sites=4, quorum=3, rounds=4, gather_s=3.0, max_attempts=2, masking=Masking("required", bits=32, bound=256.0)
    )
    victim, opened = here.sites[3], here.folder / "opened"

    def coordinate(dies=False):
        return Program(coordinate_and_keep_the_sums, here.plan, here.address, here.keys, here.store, opened, dies)

    def start(names):
        return [here.site(name, train, Plain, here.sites.index(name)) for name in names]

    first, sites = coordinate(dies=True), start(here.sites)
    first.process.join(60)
    assert first.process.exitcode == DIED
    for site in sites:
        site.kill()
    assert len(list(opened.iterdir())) == 1
    for name in here.sites:
        path = here.folder / name / "ledger.jsonl.signed"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (signed,) = SignedSumsFile(path, name).read()
        assert (signed.purpose, signed.round, signed.survivors) == ("update", 1, tuple(here.sites))

    second, sites = coordinate(), start(here.sites[:3])
    assert "skipped" in second.error()
    assert victim not in {event["site"] for event in here.events("site_joined")[4:]}
    reasons = {event["reason"] for event in here.events("update_refused")}
    assert reasons
    assert all("was opened before over other sites" in reason for reason in reasons)
    assert here.events("round_finished") == []
    assert len(list(opened.iterdir())) == 1, "the difference of two sums would be the victim's update"
    for site in sites:
        assert "the coordinator has stopped" in site.error()

    third, sites = coordinate(), start(here.sites)
    for site in sites:
        site.result()
    assert third.result() == "finished"
    assert [(event["round"], event["participants"]) for event in here.events("round_finished")] == [
        (3, here.sites),
        (4, here.sites),
    ]
