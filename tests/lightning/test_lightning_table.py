"""Whatever Lightning offers works in a federation as without one, or is refused with a reason; the page says which."""

import importlib.util
import inspect
from pathlib import Path

import lightning.pytorch as pl
import pytest
from torch.optim import lr_scheduler
from trials import row

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("lightning_table", ROOT / "docs" / "lightning_table.py")
lightning_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lightning_table)

PAGE = (ROOT / "docs" / "lightning.md").read_text()
TABLES = lightning_table.TABLES
REGENERATE = "run `python docs/lightning_table.py`, and read what it changes"
OFFERED = {
    "Trainer": [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"],
    "Callbacks": pl.callbacks.__all__,
    "Schedulers": lr_scheduler.__all__,
    "Loggers, profilers, plugins": [*pl.loggers.__all__, *pl.profilers.__all__, *pl.plugins.__all__],
}
TRIALS = [trial for title, trials in TABLES.items() for trial in trials if trial.name in OFFERED[title]]
"""Those that this version of Lightning has."""


@pytest.mark.parametrize("title", OFFERED)
def test_all_that_lightning_offers_is_in_the_table(title):
    named = {trial.name for trial in TABLES[title]} | lightning_table.NOT_TRIED.keys()
    missing = [name for name in OFFERED[title] if name not in named]
    assert not missing, f"try them in tests/lightning, then {REGENERATE}"


def test_the_page_names_what_was_tried_and_nothing_else():
    printed = lightning_table.PRINTED.search(PAGE)[1]
    lines = [line.split(" | ")[:2] for line in printed.splitlines() if line.startswith("| `")]
    assert lines == [[f"| `{trial.name}`", trial.shown] for trials in TABLES.values() for trial in trials], REGENERATE


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_one_site_alone_is_plain_training_or_refused_as_the_page_says(trial, tmp_path):
    assert row(trial, tmp_path) in PAGE.splitlines(), REGENERATE
