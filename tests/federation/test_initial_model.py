"""A coordinator that asks sites for their models "as the initial one": what was trained does not leave."""

import time

import lightning as L
import pytest
import torch
from modules import Plain, loader, train, train_with_checkpoints
from processes import PATIENCE_S
from safetensors.torch import load

from lightning_fed import SitePolicy
from lightning_fed.plan import Masking
from lightning_fed.protocol import messages as m
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import load_identity

MASKED = Masking("required")


def ask(here, *sites):
    """Ask every site that comes for its model, whoever gave one before; what was got, by site."""
    got = dict.fromkeys(sites, b"")
    asked, sizes, gone, until = set(), {}, set(), time.monotonic() + PATIENCE_S
    hub = Hub(here.address, load_identity(here.keys / "coordinator.key"), here.roster)
    try:
        while gone < set(sites):
            assert time.monotonic() < until, "the sites neither gave nor refused"
            for site, message, chunk in hub.receive(0.1):
                match message:
                    case m.Hello():
                        hub.send(site, m.Welcome("another-run", here.plan.to_bytes()))
                    case m.Join():
                        asked.add(site)
                        hub.send(site, m.Joined(0))
                        hub.send(site, m.SendInitial())
                    case m.Offer(stream="initial"):
                        sizes[site] = message.nbytes
                        hub.send(site, m.Credit("initial", 0, m.WINDOW))
                    case m.Chunk(stream="initial"):
                        got[site] += bytes(chunk)
                        if len(got[site]) == sizes[site]:
                            gone.add(site)
                    case m.Leave():
                        hub.send(site, m.Farewell())
                        gone.add(site)
    finally:
        hub.close()
    assert asked == set(sites)
    return {site: load(data) for site, data in got.items() if data}


def trained_before(federation):
    """A federation that was honest for a round, and its first site with a checkpoint."""
    here = federation(sites=2, rounds=1, masking=MASKED)
    coordinator = here.coordinate(Plain)
    sites = [here.site("site-0", train_with_checkpoints), here.site("site-1", train, Plain, 2)]
    for site in sites:
        site.result()
    coordinator.result()
    return here


def train_alone_first(strategy, folder):
    """Fit without a federation, then with one, the same module."""
    model = Plain()
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(max_epochs=1, **quiet).fit(model, loader(1, 24, 8))
    train(strategy, folder, lambda: model)


def train_from(strategy, folder, checkpoint, ledger):
    """Fit a module that the script itself loads from a checkpoint."""
    return train({**strategy, "ledger": ledger}, folder, lambda: Plain.load_from_checkpoint(checkpoint))


def test_a_site_that_goes_on_from_its_checkpoint_gives_no_model(federation):
    here = trained_before(federation)
    site = here.site("site-0", train_with_checkpoints, True)
    assert ask(here, "site-0") == {}
    error = site.error()
    assert error.startswith("PlanRefusedError: site 'site-0' refused to give the initial model")
    assert "its model comes from the checkpoint" in error
    assert "Have the coordinator start from a model of its own (model: in its config)" in error


def test_a_site_whose_script_loads_what_it_trained_before_gives_no_model_at_a_later_start(federation):
    here = trained_before(federation)
    trained, ledger = here.folder / "site-0" / "last.ckpt", here.folder / "site-0" / "ledger.jsonl"
    site = here.site("site-0", train_from, trained, ledger)
    assert ask(here, "site-0") == {}
    assert "it has trained before" in site.error()
    # Whatever the coordinator calls its federation, run or plan.
    other = federation(name="other", sites=2, masking=MASKED, quorum=2)
    site = other.site("site-0", train_from, trained, ledger)
    assert ask(other, "site-0") == {}
    assert "it has trained before" in site.error()


def test_a_site_that_trained_its_model_alone_gives_no_model(federation):
    here = federation(sites=2, masking=MASKED)
    site = here.site("site-0", train_alone_first)
    assert ask(here, "site-0") == {}
    assert "has a gradient" in site.error()


def train_under(strategy, folder, policy):
    return train({**strategy, "policy": policy}, folder, Plain)


@pytest.mark.parametrize("policy", [SitePolicy(masking="required"), SitePolicy(gives_initial=False)])
def test_sites_whose_policy_requires_masks_give_no_model_whichever_of_them_is_asked(federation, policy):
    here = federation(sites=3, masking=MASKED)
    sites = [here.site(name, train_under, policy) for name in here.sites]
    assert ask(here, *here.sites) == {}
    for site in sites:
        assert "policy says gives_initial = false" in site.error()


def test_what_a_fresh_site_gives_is_its_untrained_model_and_nothing_else(federation):
    here = federation(sites=2, masking=MASKED)
    site = here.site("site-0", train, Plain)
    (given,) = ask(here, "site-0").values()
    untrained = Plain().state_dict()
    assert given.keys() == untrained.keys()
    assert all(torch.equal(given[name], untrained[name]) for name in given)
    site.kill()


def test_a_coordinator_without_a_model_is_told_to_configure_one_when_all_sites_require_masks(federation):
    here = federation(sites=2, masking=MASKED, gather_s=1.0)
    coordinator = here.coordinate()
    sites = [here.site(name, train_under, SitePolicy(masking="required")) for name in here.sites]
    for site in sites:
        assert "refused to give the initial model" in site.error()
    error = coordinator.error()
    assert error.startswith("QuorumLostError: too few sites are left")
    assert "No site has given an initial model, as sites that require masks do not: configure model:." in error
