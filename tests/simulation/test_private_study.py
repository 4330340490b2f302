"""The study of private training: its config, its front end, and one small run of it."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from lightning_fed.radiology.synthetic.study import write_study
from lightning_fed.radiology.synthetic.style import default_sites
from lightning_fed.simulation.config import read_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def simulation():
    return read_config(["--config", str(ROOT / "configs" / "fracture-private.yaml")])


def test_the_config_promises_epsilon_8_and_publishes_no_metric(simulation):
    example = simulation.plan.privacy.example
    assert (example.epsilon, example.delta) == (8.0, 1e-5)
    assert simulation.plan.metrics == []
    assert simulation.plan.masking.mode == "required"


def test_another_epsilon_changes_nothing_else_and_infinity_takes_the_promise_away(simulation):
    from examples.fracture.private_study import with_epsilon

    three = with_epsilon(simulation, 3.0)
    assert three.plan.privacy.example == dataclasses.replace(simulation.plan.privacy.example, epsilon=3.0)
    assert with_epsilon(three, 8.0) == simulation
    none = with_epsilon(simulation, float("inf"))
    assert none.plan.privacy.example is None
    assert dataclasses.replace(none.plan, privacy=simulation.plan.privacy) == simulation.plan


def test_the_front_end_ignores_exposure_and_trains_nothing_but_the_last_layer():
    from examples.fracture import FractureClassifier

    module = FractureClassifier(backbone="gabor")
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        "network.1.weight": (1, 128),
        "network.1.bias": (1,),
    }
    images = torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    features = module.network[0](images)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(module.network[0](0.5 * images + 0.2), features, atol=5e-2, rtol=0)
    assert (features[0] - features[1]).norm() > 0.1


def test_each_image_has_a_vector_of_its_own_whatever_else_is_in_the_batch():
    from examples.fracture.front_end import FrontEnd

    front_end = FrontEnd()
    images = torch.rand(4, 1, 48, 48)
    torch.testing.assert_close(torch.cat([front_end(image[None]) for image in images]), front_end(images))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_private_federation_of_real_processes_keeps_its_promise(simulation, tmp_path, monkeypatch):
    from examples.fracture.private_study import auroc
    from examples.fracture.study import on_study

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_study(tmp_path / "study", sites=default_sites(2), images_per_site=30)
    small = dataclasses.replace(
        simulation,
        sites=["north", "east"],
        plan=dataclasses.replace(simulation.plan, rounds=1, quorum=2),
        data={**simulation.data, "init_args": {**simulation.data["init_args"], "batch_size": 8}},
    )
    small = on_study(small, str(tmp_path / "study"), seed=1, run=str(tmp_path / "run"))
    assert 0 <= auroc(small) <= 1
    assert (tmp_path / "run" / "sites" / "north" / "ledger.jsonl").exists()
    assert len(list((tmp_path / "run" / "store" / "models").glob("*.ckpt"))) == 2
