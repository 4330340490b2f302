"""``from lightning_fed import FederatedStrategy`` is light: measured against Lightning's import, in one process."""

import json
import subprocess
import sys

import pytest

from lightning_fed.lightning_api import PACKAGES

MEASURE = """
import sys, time, json
start = time.process_time()
import {package}
middle, before = time.process_time(), set(sys.modules)
from lightning_fed import FederatedStrategy
end = time.process_time()
print(json.dumps([middle - start, end - middle, sorted(set(sys.modules) - before), FederatedStrategy.__name__]))
"""

# What only some plans, models, commands or data need.
HEAVY = {
    "dp_accounting",
    "jsonargparse",
    "matplotlib",
    "monai",
    "opacus",
    "pandas",
    "pydicom",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "torchvision",
}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_import_takes_a_small_part_of_lightnings_own_and_brings_nothing_heavy(package):
    command = [sys.executable, "-c", MEASURE.format(package=package)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    lightnings, ours, new, name = json.loads(result.stdout)
    assert name == "FederatedStrategy"
    roots = {module.split(".")[0] for module in new}
    assert not roots & HEAVY
    # Never both: the other package would be imported for nothing, and mistaken for one that the script uses.
    assert not roots & {"lightning", "pytorch_lightning"}
    # 150 ms of the 3.9 s that Lightning took where this was written; measured were 55.
    assert ours < 0.04 * lightnings


def test_lightning_fed_alone_imports_no_package_of_lightning():
    code = "import lightning_fed, sys\nfrom lightning_fed import FederatedStrategy\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert not {"lightning", "pytorch_lightning", "lightning_fabric"} & set(result.stdout.split())


def test_files_of_a_study_are_written_without_pytorch():
    code = "import lightning_fed.radiology.synthetic.__main__, sys\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert not {"torch", "torchvision", "lightning"} & set(result.stdout.split())
