"""The short form of ``make fuzz``: some thousand inputs, others each time."""

import secrets

from fuzz import fuzz


def test_no_input_makes_a_decoder_or_a_state_machine_fail_otherwise_than_by_name():
    seed = secrets.randbits(32)
    found = fuzz(12_000, seed)
    assert found.inputs.total() == 12_000
    assert any(name.startswith("coordinator") for name in found.inputs)
    assert any(name.startswith("site") for name in found.inputs)
    assert found.inputs["messages of sites"] > 100
