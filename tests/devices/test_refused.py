"""What a site of several processes refuses, or waits for in vain, each of them raises."""

import os

import lightning as L
import pytest
from several import Here, errors, examples, free_port
from torch.utils.data import DataLoader

from lightning_fed import FederationPlan, SitePolicy
from lightning_fed.callbacks import DifferentialPrivacy, FederatedFinetuning, FedRep
from lightning_fed.plan import ExamplePrivacy, Masking, Privacy


def raised(here: Here, *args, **options) -> set[tuple[str, str]]:
    """Kind and text of the error of each process."""
    lines = [text.splitlines()[-1].split(": ", 1) for text in errors(here.nodes("site-0", *args, **options))]
    return {(kind.rpartition(".")[2], said) for kind, said in lines}


def here(folder, **settings) -> Here:
    plan = FederationPlan(**{"rounds": 2, "masking": Masking("off"), "quorum": 1, **settings})
    return Here(folder, plan, ("site-0",))


def test_a_plan_that_the_sites_policy_does_not_allow(tmp_path):
    federation = here(tmp_path)
    [(kind, said)] = raised(federation, {"policy": SitePolicy(masking="required")})
    assert kind == "PlanRefusedError"
    assert "masking" in said
    assert federation.wait_for("site_left")["reason"] == "refused"
    assert not federation.events("site_joined")


def dp_sgd() -> list[L.Callback]:
    return [DifferentialPrivacy(noise_multiplier=1.0)]


EXAMPLE = Privacy(example=ExamplePrivacy(noise_multiplier=1.0))


@pytest.mark.parametrize(("settings", "options"), [({}, {"callbacks": dp_sgd}), ({"privacy": EXAMPLE}, {})])
def test_dp_sgd_of_the_script_or_of_the_plan_before_the_site_joins(tmp_path, settings, options):
    federation = here(tmp_path, **settings)
    [(kind, said)] = raised(federation, **options)
    assert kind == "ConfigError"
    assert "cannot have example-level privacy: it runs on 2 devices (FederatedDDP)" in said
    assert not federation.events("site_joined")


def fedrep() -> list[L.Callback]:
    return [FedRep(["net.2.*"])]


def scheduled() -> list[L.Callback]:
    return [FederatedFinetuning("net", schedule={2: ["0"]})]


def thawing() -> list[L.Callback]:
    return [L.pytorch.callbacks.BackboneFinetuning()]


@pytest.mark.parametrize(
    ("callbacks", "reason"),
    [
        (fedrep, "FedRep lets parts of the model rest, and DDP"),
        (scheduled, "FederatedFinetuning's schedule lets parts of the model rest, and DDP"),
        (thawing, "BackboneFinetuning thaws layers during the fit, and the 2 devices of this site"),
    ],
)
def test_callbacks_that_freeze_what_ddp_waits_for(tmp_path, callbacks, reason):
    federation = here(tmp_path, personal=["net.2.*"])
    [(kind, said)] = raised(federation, callbacks=callbacks)
    assert kind == "ConfigError"
    assert said.startswith(reason)
    assert federation.wait_for("site_left")["reason"] == "failed"


def test_a_coordinator_that_is_not_there(tmp_path):
    nowhere = {"coordinator": f"tcp://127.0.0.1:{free_port()}", "patience_s": 1.0}
    [(kind, said)] = raised(here(tmp_path), nowhere)
    assert kind == "ConnectionLostError"
    assert said.startswith(f"site 'site-0' could not reach the coordinator at {nowhere['coordinator']}")


def uneven() -> DataLoader:
    return DataLoader(examples(0, 24 if os.environ["RANK"] == "0" else 16), 4)


def test_different_numbers_of_batches(tmp_path):
    federation = here(tmp_path)
    [(kind, said)] = raised(federation, data=uneven, use_distributed_sampler=False)
    assert kind == "ConfigError"
    assert said.startswith("the processes of site 'site-0' have [6, 4] training batches")
    assert federation.wait_for("site_left")["reason"] == "failed"
