"""Which global models stay in a store."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.cli.coordinate import read_config
from lightning_fed.coordinator.disk import shortage
from lightning_fed.coordinator.retention import Keep
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import ConfigError
from lightning_fed.plan import BestModel, FederationPlan
from lightning_fed.protocol.coordinator.best import UNSETTLED, BestSoFar, Measured
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

FIRST = GlobalModel(0, Layout((TensorSpec("weight", (3,), "float32"),)), torch.arange(3.0), {})
PLAN = FederationPlan(metrics=["auroc"], best=BestModel("auroc", "max"))
KEEPS = st.builds(Keep, st.integers(1, 6), st.booleans(), st.none() | st.integers(1, 5))


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "models").iterdir())


def saved(store, versions, may_be_best):
    for version in versions:
        store.save(GlobalModel(version, FIRST.layout, torch.full((3,), float(version)), {}, server={"step": 1.0}))
        store.tidy(may_be_best(version))


def test_older_models_go_with_all_their_files_and_the_newest_the_best_and_every_tenth_stay(tmp_path):
    store = Store(tmp_path, PLAN, {}, Keep(last=2, best=True, every=5))
    saved(store, range(13), lambda newest: {3} & set(range(newest)))
    store.close()
    kept = [0, 3, 5, 10, 11, 12]
    assert names(tmp_path) == sorted(
        f"{each:06d}{end}" for each in kept for end in (".ckpt", ".safetensors", ".server")
    )
    again = Store(tmp_path, PLAN, {})
    saved(again, [13], lambda newest: set())
    again.close()
    assert again.model.version == 12
    assert len(names(tmp_path)) == 3 * 7, "nothing is removed unless it is asked for"


def test_a_checkpoint_that_is_owed_is_not_made_again_of_a_model_that_was_removed(tmp_path):
    store = Store(tmp_path, PLAN, {}, Keep(last=1))
    in_its_place = tmp_path / "models" / "000001.ckpt"
    in_its_place.mkdir()
    (in_its_place / "x").touch()
    saved(store, range(4), lambda newest: set())
    (in_its_place / "x").unlink()
    in_its_place.rmdir()
    saved(store, [4], lambda newest: set())
    store.finish()
    store.close()
    assert names(tmp_path) == ["000004.ckpt", "000004.safetensors", "000004.server"]


def test_files_that_cannot_be_removed_are_told_of_once_and_hold_up_nothing(tmp_path, caplog):
    store = Store(tmp_path, PLAN, {}, Keep(last=1))
    for version in (1, 2):
        (tmp_path / "models" / f"{version:06d}.server").mkdir()
    saved(store, [3, 4, 5], lambda newest: set())
    store.finish()
    store.close()
    assert caplog.text.count("older models cannot be removed") == 1
    kept = ["000005.ckpt", "000005.safetensors", "000005.server"]
    assert names(tmp_path) == ["000001.server", "000002.server", *kept]


LATE = st.integers(1, UNSETTLED)
REPORTS = st.lists(st.tuples(LATE, st.integers(1, 3), st.sampled_from([0.1, 0.2, 0.3])), max_size=3)


@given(st.lists(st.tuples(REPORTS, REPORTS), max_size=12), KEEPS)
def test_the_best_is_never_removed_however_late_it_is_measured_and_wherever_the_coordinator_is_killed(rounds, keep):
    """Some of what is measured is written into the log only after the next model is stored and older ones removed."""
    keep = Keep(keep.last, True, keep.every)
    known, logged, there = BestSoFar("auroc", "max"), BestSoFar("auroc", "max"), {0}

    def measured(newest, reports):
        return [Measured(newest - late, {"auroc": v}, {"auroc": n}) for late, n, v in reports if newest >= late]

    for newest, (before, at_the_end) in enumerate(rounds, start=1):
        # Of the newest before this one, and the two before it.
        for each in measured(newest, before):
            known.take(each)
            logged.take(each)
        unwritten = [each for each in measured(newest, at_the_end) if each.version > newest - UNSETTLED]
        for each in unwritten:
            known.take(each)
        there.add(newest)
        there -= set(keep.obsolete(there, newest, known.may_be_best(newest)))
        assert newest in there
        for best in (known.best, logged.best):
            assert best is None or best.version in there
        for each in unwritten:
            logged.take(each)


@given(KEEPS, st.integers(0, 40), st.integers(1, 40))
def test_the_disk_is_asked_for_no_more_than_what_comes_to_lie_there(keep, newest, rounds):
    there = set(range(newest + 1))
    there -= set(keep.obsolete(there, newest, {0, *range(newest - 2, newest + 1)}))
    before = most = len(there)
    for version in range(newest + 1, newest + rounds + 1):
        there.add(version)
        most = max(most, len(there))
        there -= set(keep.obsolete(there, version, {0, *range(version - 2, version + 1)}))
    told = keep.models_to_come(rounds, newest, before, best=True)
    assert most - before <= told <= max(1, most - before) + 2


def test_the_warning_of_the_disk_reckons_with_what_is_removed():
    assert shortage(rounds=1000, bytes_a_round=100, bytes_free=1000, models=6) is None
    short = shortage(rounds=1000, bytes_a_round=100, bytes_free=500, models=6)
    assert short.bytes_needed == 600
    assert "is too small for the models that are kept" in str(short)
    assert "keep: {last: 3}" in str(shortage(rounds=1000, bytes_a_round=100, bytes_free=500))


@pytest.mark.parametrize("text", ["{last: 2, best: no, every: 10}", "{last: 2, best: false, every: 10}"])
def test_it_is_the_coordinators_own_setting_and_not_the_plans(tmp_path, text):
    (tmp_path / "config.yaml").write_text(f"store: s\nkeep: {text}\n")
    config = read_config(["--config", str(tmp_path / "config.yaml")])
    assert config.keep == Keep(2, False, 10)
    assert read_config(["--store", "s", "--keep.every", "4"]).keep == Keep(3, True, 4)
    assert read_config(["--store", "s"]).keep is None
    with pytest.raises(ConfigError, match=r"keep.last = 0 must be at least 1"):
        read_config(["--store", "s", "--keep.last", "0"])
