"""What a coordinator's folder says after a restart, and what it tells to whom it gives a model."""

import dataclasses
import multiprocessing
import os
import resource

import pytest
import torch
from safetensors import safe_open

from lightning_fed.coordinator.recorded import checkpoint_of
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import StoreError
from lightning_fed.plan import FederationPlan
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

FIRST = GlobalModel(0, Layout((TensorSpec("weight", (3,), "float32"),)), torch.arange(3.0), {})


@pytest.mark.parametrize("server", [{}, {"momentum": torch.ones(3), "step": 2.0}])
@pytest.mark.parametrize("counted", [{}, {"north": 1, "south": 0}])
def test_the_newest_model_comes_back_with_all_that_belongs_to_it(tmp_path, server, counted):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(FIRST)
    store.save(dataclasses.replace(FIRST.next(torch.ones(3)), server=server, counted=counted, bounds=(4.0,)))
    store.close()
    again = Store(tmp_path, FederationPlan(), {})
    again.close()
    model = again.model
    assert (model.version, model.counted, model.bounds) == (1, counted, (4.0,))
    assert torch.equal(model.vector, torch.ones(3))
    assert model.server.keys() == server.keys()
    for name, value in server.items():
        assert torch.equal(torch.as_tensor(model.server[name]), torch.as_tensor(value))


def test_a_copy_that_somebody_laid_beside_the_models_is_no_model(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(FIRST)
    store.close()
    models = tmp_path / "models"
    for name in ("000000-copy", "before", "7"):
        (models / f"{name}.safetensors").write_bytes((models / "000000.safetensors").read_bytes())
    again = Store(tmp_path, FederationPlan(), {})
    again.close()
    assert again.model.version == 0
    assert checkpoint_of(tmp_path, None).name == "000000.ckpt"


def test_a_models_own_files_name_no_site(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(dataclasses.replace(FIRST, counted={"st-marys": 1}))
    store.close()
    with safe_open(tmp_path / "models/000000.safetensors", framework="pt") as file:
        assert file.metadata()["run"] == store.run
    for name in ("000000.safetensors", "000000.ckpt"):
        assert b"st-marys" not in (tmp_path / "models" / name).read_bytes()


def test_a_checkpoint_that_a_killed_coordinator_did_not_come_to_is_written_at_the_next_start(tmp_path):
    store = Store(tmp_path, FederationPlan(), {"width": 3})
    store.save(FIRST)
    store.save(FIRST.next(torch.ones(3)))
    store.close()
    expected = {path.name: torch.load(path) for path in (tmp_path / "models").glob("*.ckpt")}
    assert len(expected) == 2
    for name in expected:
        (tmp_path / "models" / name).unlink()
    Store(tmp_path, FederationPlan(), {"width": 3}).close()
    for name, checkpoint in expected.items():
        written = torch.load(tmp_path / "models" / name)
        state, before = written.pop("state_dict"), checkpoint.pop("state_dict")
        assert written == checkpoint
        assert state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in state)


def test_a_checkpoint_that_could_not_be_written_is_owed_until_it_can_be(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(FIRST)
    in_its_place = tmp_path / "models" / "000001.ckpt"
    in_its_place.mkdir()
    for _ in range(2):
        store.save(FIRST.next(torch.ones(3)))
        store.save(FIRST.next(torch.ones(3)).next(torch.zeros(3)))
    with pytest.raises(StoreError, match=r"000001.ckpt cannot be written"):
        store.finish()
    in_its_place.rmdir()
    store.finish()
    store.close()
    for version, vector in ((1, torch.ones(3)), (2, torch.zeros(3))):
        assert torch.equal(torch.load(tmp_path / "models" / f"{version:06d}.ckpt")["state_dict"]["weight"], vector)


def test_a_checkpoint_that_the_disk_does_not_take_to_its_end_is_owed_with_the_reason(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(FIRST)
    store.finish()
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    models = tmp_path / "models"
    # Room for the model itself, and for the beginning of what torch writes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * (models / "000000.safetensors").stat().st_size, hard))
    try:
        store.save(FIRST.next(torch.ones(3)))
        with pytest.raises(StoreError, match=r"000001.ckpt cannot be written to .*: File too large"):
            store.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert "000001.ckpt" not in {path.name for path in models.iterdir()}
    store.finish()
    store.close()
    assert torch.equal(torch.load(models / "000001.ckpt")["state_dict"]["weight"], torch.ones(3))


def test_what_a_disk_that_was_away_kept_of_a_file_half_written_is_removed_at_the_end(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(FIRST)
    (tmp_path / "models" / ".000000.ckpt.0123456789abcdef").write_bytes(b"half")
    store.finish()
    store.close()
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"000000.safetensors", "000000.ckpt"}


def test_a_model_that_somebody_removed_to_make_room_is_not_owed(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    (tmp_path / "models" / "000000.ckpt").mkdir()
    store.save(FIRST)
    store.save(FIRST.next(torch.ones(3)))
    with pytest.raises(StoreError, match=r"000000.ckpt cannot be written"):
        store.finish()
    (tmp_path / "models" / "000000.safetensors").unlink()
    store.finish()
    store.close()


def test_a_record_that_could_not_be_written_is_written_at_the_next_attempt(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    record = tmp_path / "run.json"
    record.rename(tmp_path / "aside")
    record.mkdir()
    with pytest.raises(StoreError, match=r"run.json cannot be written"):
        store.save(FIRST)
    record.rmdir()
    (tmp_path / "aside").rename(record)
    store.save(FIRST)
    store.close()
    again = Store(tmp_path, FederationPlan(), {})
    again.close()
    assert torch.equal(again.model.vector, FIRST.vector)


def killed_while_writing(folder):
    """Ends like a process under SIGKILL, with half a model and half a record on the disk."""

    def half(descriptor):
        os._exit(9)

    os.fsync = half
    store = Store(folder, FederationPlan(), {})
    store.save(FIRST.next(torch.zeros(3)))


def test_what_a_killed_coordinator_had_half_written_is_removed(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(FIRST)
    store.close()
    process = multiprocessing.get_context("fork").Process(target=killed_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    before = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert any(name.startswith(".run.json.") for name in before)
    Store(tmp_path, FederationPlan(), {}).close()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        ".lock",
        "run.json",
        "000000.safetensors",
        "000000.ckpt",
    }


@pytest.mark.parametrize("damage", [b'{"run": "\xff"}', b"[" * 100_000, b"", bytes(64)])
def test_a_record_that_a_power_cut_has_spoilt_is_named(tmp_path, damage):
    Store(tmp_path, FederationPlan(), {}).close()
    (tmp_path / "run.json").write_bytes(damage)
    with pytest.raises(StoreError, match=r"run.json in the store .* cannot be read"):
        Store(tmp_path, FederationPlan(), {})
