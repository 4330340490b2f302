"""``lightning-fed coordinate``: what it takes, and one clear line for what it cannot use."""

import socket

import pytest
import torch
from small_modules import Small

from lightning_fed.coordinator.loading import load_weights
from lightning_fed.errors import ModelMismatchError, StoreError

CONFIG = """
store: store
plan: {{rounds: 2, gather_s: 1, {plan}}}
model: {{class_path: small_modules.Small, init_args: {{width: 3, {model}}}}}
{more}
"""


@pytest.fixture
def coordinate(lightning_fed, tmp_path):
    lightning_fed("keys", "new", "coordinator")
    lightning_fed("keys", "new", "north")
    lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/north.pub")

    def call(*arguments, plan="", model="", more=""):
        (tmp_path / "federation.yaml").write_text(CONFIG.format(plan=plan, model=model, more=more))
        return lightning_fed("coordinate", "--config", "federation.yaml", *arguments)

    return call


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"plan": "rouns: 3"}, "'rouns'. Did you mean 'rounds'?"),
        ({"plan": "local: {epoch: 3}"}, "'local.epoch'. Did you mean 'local.epochs'?"),
        ({"plan": "privacy: {example: {epsilom: 3}}"}, "'epsilom' is not accepted. Did you mean 'epsilon'?"),
        ({"model": "wdth: 3"}, "'wdth' is not accepted. Did you mean 'width'?"),
        ({"more": "rooster: keys"}, "'rooster' is not accepted. Did you mean 'roster'?"),
        ({"more": "qqqqqq: keys"}, "'qqqqqq' is not accepted\n"),
        ({"plan": "quorum: many"}, "quorum"),
    ],
)
def test_a_misspelt_key_is_named(coordinate, section, named):
    code, _, err = coordinate(**section)
    assert code == 2
    assert named in err[err.index("error:") :]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"plan": "algorithm: {name: fedadm}"}, "Did you mean 'fedadam'?"),
        ({"plan": "algorithm: {name: fedadam, server_lrr: 1}"}, "Did you mean 'server_lr'?"),
        ({"plan": "quorum: 0"}, "plan.quorum = 0 must be a finite number of at least 1"),
        ({"plan": "quorum: 3, cohort_size: 2"}, "plan.cohort_size = 2 is below plan.quorum = 3"),
        ({"more": "identity: keys/other.key"}, "keys/other.key does not exist"),
        ({"more": "roster: keys/other.yaml"}, "keys/other.yaml does not exist"),
        ({"more": "checkpoint: none.ckpt"}, "none.ckpt is missing or is no checkpoint"),
        ({"more": "checkpoint: federation.yaml"}, "federation.yaml is missing or is no checkpoint"),
        ({"more": "address: nonsense"}, "the address 'nonsense' cannot be used. Write it like tcp://host:5790"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_1(coordinate, section, message):
    code, _, err = coordinate(**section)
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("lightning-fed coordinate: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


def test_a_port_in_use_is_named(coordinate):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        code, _, err = coordinate("--address", address)
    assert code == 1
    assert f"cannot listen at {address}" in err
    assert "choose another port" in err


def test_a_checkpoint_without_its_model_is_refused(lightning_fed, coordinate, tmp_path):
    (tmp_path / "other.yaml").write_text("store: store\ncheckpoint: some.ckpt\n")
    code, _, err = lightning_fed("coordinate", "--config", "other.yaml")
    assert code == 1
    assert "checkpoint = some.ckpt needs model" in err


def test_weights_come_from_a_checkpoint_bit_for_bit(tmp_path):
    first, second = Small(), Small()
    torch.save({"state_dict": first.state_dict()}, tmp_path / "a.ckpt")
    load_weights(second, tmp_path / "a.ckpt")
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)


def test_a_checkpoint_of_another_module_is_refused(tmp_path):
    torch.save({"state_dict": Small(width=7).state_dict()}, tmp_path / "a.ckpt")
    with pytest.raises(ModelMismatchError, match=r"not belong to Small: [^.]*mismatch for layer.weight"):
        load_weights(Small(width=4), tmp_path / "a.ckpt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": print}, tmp_path / "a.ckpt")
    with pytest.raises(StoreError, match="cannot be read"):
        load_weights(Small(), tmp_path / "a.ckpt")
