"""The study of private training: its config, its front end, and one small run of it."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger_rows import ledger_rows
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
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {"network.1.weight": (1, 40)}
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


def test_a_left_wrist_is_a_right_one_in_the_mirror():
    from examples.fracture.front_end import FrontEnd

    front_end = FrontEnd()
    images = torch.rand(8, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(front_end(images.flip(-1)), front_end(images))


def test_a_left_wrist_gives_the_maps_of_a_right_one_at_every_exposure():
    from examples.fracture.front_end import TurnedMaps

    maps = TurnedMaps()
    images = torch.rand(8, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    found = maps(images)
    assert found.shape == (8, maps.channels, 12, 12)
    assert torch.equal(maps(images.flip(-1)), found)
    torch.testing.assert_close(maps(0.5 * images + 0.2), found, atol=5e-2, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_convolutions_have_no_bias_start_undecided_and_see_each_image_by_itself():
    from examples.fracture import FractureClassifier

    module = FractureClassifier(backbone="gabor_conv").eval()
    convolutions = {f"network.1.{number}.weight": (16, 16, 3, 3) for number in (0, 4, 7)}
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {**convolutions, "network.1.11.weight": (1, 576)}
    images = torch.rand(4, 1, 48, 48)
    assert torch.equal(module(images), torch.zeros(4))
    torch.nn.init.normal_(module.network[1][-1].weight)
    torch.testing.assert_close(torch.cat([module(image[None]) for image in images]), module(images))
    vectors = module.network[1][:-1](module.network[0](images))
    torch.testing.assert_close(vectors.norm(dim=1), torch.full((4,), 4.0))


def test_directions_are_found_of_pictures_turned_to_one_side_and_have_deviation_1():
    from examples.fracture.front_end import directions_of

    generator = torch.Generator().manual_seed(0)
    side = torch.randint(0, 2, (400, 1), generator=generator) * 2.0 - 1
    spread = torch.linspace(3, 1, 60)
    rest = torch.randn(400, 60, generator=generator) * spread
    # The first number changes its sign in the mirror, and the next two change places.
    answers = torch.cat([20 * side, rest], dim=1)
    swapped = rest[:, [1, 0, *range(2, 60)]]
    found = {name: value.float() for name, value in directions_of(answers, torch.cat([-20 * side, swapped], 1)).items()}
    assert abs(found["hand"][0]) > 0.99
    turned = torch.where(side * found["hand"][0] > 0, answers, torch.cat([-20 * side, swapped], 1))
    torch.testing.assert_close(found["mean"], turned.mean(0), atol=2e-2, rtol=0)
    projected = (turned - turned.mean(0)) @ found["directions"]
    torch.testing.assert_close(projected.T @ projected / 400, torch.eye(40), atol=2e-2, rtol=0)


def shrunk(simulation):
    """The simulation with two sites, two rounds and small batches."""
    return dataclasses.replace(
        simulation,
        sites=["north", "east"],
        plan=dataclasses.replace(simulation.plan, rounds=2, quorum=2),
        data={**simulation.data, "init_args": {**simulation.data["init_args"], "batch_size": 8}},
    )


@pytest.fixture
def small(simulation, tmp_path, monkeypatch):
    from examples.fracture.study import on_study

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_study(tmp_path / "study", sites=default_sites(2), images_per_site=30)
    return on_study(shrunk(simulation), str(tmp_path / "study"), seed=1, run=str(tmp_path / "run"))


def test_a_small_study_behind_the_front_end_trains_with_a_promise_and_without(small, tmp_path):
    from examples.fracture.private_study import auroc, sides, with_epsilon

    hospitals = {site: sides(small, str(tmp_path / "study" / site)) for site in small.sites}
    assert hospitals["north"].train[0]["image"].shape == (40,)
    assert 0 <= auroc(small, hospitals) <= 1
    assert 0 <= auroc(with_epsilon(small, float("inf")), hospitals) <= 1


def test_a_small_study_of_convolutions_trains_with_a_promise_and_by_the_reference_without(small, tmp_path):
    from examples.fracture.private_study import auroc, sides

    private, reference = (
        read_config(["--config", str(ROOT / "configs" / f"{name}.yaml")])
        for name in ("fracture-private-conv", "fracture-conv")
    )
    assert private.plan.privacy.example.epsilon == 8.0
    assert reference.plan.privacy.example is None
    differing = {"lr", "optimizer", "weight_decay"}
    models = [{k: v for k, v in one.model["init_args"].items() if k not in differing} for one in (private, reference)]
    assert models[0] == models[1]
    data = [{**one.data["init_args"], "batch_size": None} for one in (private, reference)]
    assert data[0] == data[1]
    hospitals = {site: sides(private, str(tmp_path / "study" / site)) for site in small.sites}
    assert hospitals["north"].train[0]["image"].shape == (16, 12, 12)
    for one in (private, reference):
        assert 0 <= auroc(shrunk(one), hospitals) <= 1


def test_a_site_that_has_spent_more_than_was_promised_or_nothing_ends_the_study():
    from examples.fracture.private_study import require_kept

    require_kept({"north": 7.99, "east": 8.0}, 8.0)
    with pytest.raises(SystemExit, match=r"^east has spent epsilon 8\.01, and 8 was promised\.$"):
        require_kept({"north": 7.99, "east": 8.01}, 8.0)
    with pytest.raises(SystemExit, match="north has spent epsilon 0"):
        require_kept({"north": 0.0}, 8.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_private_federation_of_real_processes_keeps_its_promise(small, tmp_path):
    from examples.fracture.study import results_of

    results_of(dataclasses.replace(small, baselines=None))
    for site in small.sites:
        spent = ledger_rows(read_history(tmp_path / "run" / "sites" / site / "ledger.jsonl"))[-1].unit_epsilon
        assert 7 < spent <= 8
    assert len(list((tmp_path / "run" / "store" / "models").glob("*.ckpt"))) == 3
