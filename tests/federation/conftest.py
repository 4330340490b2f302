"""Fixtures of the tests with real processes."""

import pytest
from processes import Federation

from lightning_fed.plan import FederationPlan, Masking


@pytest.fixture
def federation(tmp_path):
    def make(sites=2, name="here", **plan) -> Federation:
        plan = {"masking": Masking("off"), "gather_s": 30.0, "quorum": sites, **plan}
        folder = tmp_path / name
        folder.mkdir()
        return Federation(folder, FederationPlan(**plan), [f"site-{index}" for index in range(sites)])

    return make
