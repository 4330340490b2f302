"""Fixtures of the protocol's tests."""

import pytest
from wire import Wire, model_of_size

from lightning_fed.plan import FederationPlan, Masking


@pytest.fixture
def wire():
    def make(rounds=3, sites=3, size=5, model=True, masking="off", **plan) -> Wire:
        plan["masking"] = Masking(masking)
        names = [f"site-{index}" for index in range(sites)]
        return Wire(
            FederationPlan(rounds=rounds, **plan), names, size=size, model=model_of_size(size) if model else None
        )

    return make
