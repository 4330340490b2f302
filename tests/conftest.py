import os
from collections.abc import Iterator

import pytest
import torch

# The tests' models are small: on a machine that does other work, too, threads mostly wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """``seed_everything`` leaves its seed in the environment, where samplers of later tests would find it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
