"""Everything here needs a CUDA device, and says so where there is none."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    # The hook gets the items of all folders.
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here: nothing was tested on a GPU"))
