import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# The tests' models are small: on a machine that does other work, too, threads mostly wait for each other.
torch.set_num_threads(1)

# A deadline for each example would measure how busy the machine is; the timeout of pytest bounds the whole test.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """``seed_everything`` leaves its seed in the environment, where samplers of later tests would find it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
