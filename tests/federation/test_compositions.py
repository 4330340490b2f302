"""Every combination of masking, compression, privacy and algorithm either works over sockets or says why not."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from modules import Plain, train

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("compositions", ROOT / "docs" / "compositions.py")
compositions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compositions)

CELLS = list(compositions.cells())
ALLOWED = [(names, settings) for names, settings in CELLS if compositions.refusal(settings) is None]
REFUSED = [(names, settings) for names, settings in CELLS if compositions.refusal(settings) is not None]


def test_the_page_shows_the_table_that_the_rules_make():
    page = (ROOT / "docs" / "compositions.md").read_text()
    pasted = re.search(r"<!-- printed -->\n\n(.*?)\n\n<!-- end -->", page, flags=re.DOTALL)[1]
    assert pasted == compositions.table(), "paste what `python docs/compositions.py` prints"


@pytest.mark.parametrize(("names", "settings"), REFUSED, ids=[" + ".join(names) for names, _ in REFUSED])
def test_a_refusal_names_both_parts_and_what_to_choose_instead(names, settings):
    reason = compositions.refusal(settings)
    assert reason.count("plan.") >= 2 or "mask" in reason
    assert "Choose" in reason


@pytest.mark.slow
@pytest.mark.parametrize(("names", "settings"), ALLOWED, ids=[" + ".join(names) for names, _ in ALLOWED])
def test_two_rounds_over_sockets(federation, names, settings):
    here = federation(sites=3, rounds=2, **settings)
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites, start=1)]
    results = [site.result() for site in sites]
    assert coordinator.result() == "finished"
    assert [sorted(event["participants"]) for event in here.events("round_finished")] == [here.sites] * 2
    model = here.model(2)
    first = here.model(0)
    for result in results:
        for name, tensor in result["state"].items():
            torch.testing.assert_close(tensor, model[name], rtol=0, atol=0)
    changed = sum(int((model[name] != first[name]).sum()) for name in model)
    size = sum(tensor.numel() for tensor in model.values())
    assert 0 < changed <= size
    if names[0] in ("random-k", "secure vote") and names[3] == "FedAvg":
        assert changed <= 2 * (0.2 * size + 4)
    private = names[2] != "none"
    for name in here.sites:
        ledger = here.folder / name / "ledger.jsonl"
        assert ledger.exists() == private
        if private:
            assert len(ledger.read_text().splitlines()) == 2
