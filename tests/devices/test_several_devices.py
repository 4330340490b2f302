"""A site trains on two devices as it would on one with batches of twice the size; its processes stay together."""

import pytest
from several import Here, Module, farthest

from lightning_fed import FederationPlan, LocalTraining
from lightning_fed.plan import Masking

SITES = ("site-0", "site-1")
ROUNDS = 3


def plan(**settings) -> FederationPlan:
    return FederationPlan(**{"rounds": ROUNDS, "masking": Masking("off"), "quorum": 2, **settings})


@pytest.fixture(scope="module")
def two_and_one(tmp_path_factory) -> tuple[Here, Here]:
    """The same federation, once with two devices at each site and once with one; its examples divide by neither."""
    both = []
    for devices in (2, 1):
        here = Here(
            tmp_path_factory.mktemp(f"devices-{devices}"),
            plan(local=LocalTraining(epochs=2), metrics=["val_loss", "val_accuracy"], algorithm={"name": "scaffold"}),
            SITES,
            Module(),
        )
        here.fit(devices=devices, count=24)
        both.append(here)
    return both[0], both[1]


def test_two_devices_give_the_model_of_one_with_twice_the_batch(two_and_one):
    two, one = two_and_one
    assert [rank["strategy"] for rank in two.ranks("site-0")] == ["FederatedDDP"] * 2
    assert [rank["strategy"] for rank in one.ranks("site-0")] == ["FederatedStrategy"]
    assert two.ranks("site-0")[1]["steps"] == one.ranks("site-0")[0]["steps"] == 2 * 3 * ROUNDS
    for version in range(1, ROUNDS + 1):
        assert farthest(two.model(version), two.model(0)) > 0.01
        assert farthest(two.model(version), one.model(version)) < 1e-6
