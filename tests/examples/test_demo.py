"""``make demo`` and ``make study``: what the Makefile writes is what the configs read, and the comparison is fair."""

import re
from pathlib import Path

import pytest

from lightning_fed.simulation.config import read_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["demo", "study"])
def recipe(request):
    """The lines of one target of the Makefile."""
    found = re.search(rf"^{request.param}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return found[1]


@pytest.fixture
def simulation(recipe):
    return read_config(["--config", str(ROOT / re.search(r"simulate --config (\S+)", recipe)[1])])


def test_sites_read_what_was_written_and_the_page_shows_their_run(recipe, simulation):
    written = re.search(r"radiology\.synthetic (\S+)", recipe)[1]
    assert simulation.data["init_args"]["root"] == f"{written}/{{site}}"
    store, page = re.search(r"report (\S+) --html (\S+)", recipe).groups()
    assert (store, page) == (f"{simulation.run}/store", f"{simulation.run}/report.html")


def test_all_data_in_one_place_are_the_sites_data_seen_alike(simulation):
    at_sites, pooled = dict(simulation.data["init_args"]), dict(simulation.baselines.pooled["init_args"])
    root = at_sites.pop("root")
    assert pooled.pop("roots") == [root.format(site=site) for site in simulation.sites]
    assert pooled == at_sites


def test_masks_are_on_and_sites_validate_once_a_round(simulation):
    assert simulation.plan.masking.mode == "required"
    assert simulation.trainer["check_val_every_n_epoch"] == simulation.plan.local.epochs
