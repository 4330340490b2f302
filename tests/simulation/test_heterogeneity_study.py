import dataclasses

import pytest
import torch

from examples.fracture import heterogeneity, study, transfer, trials
from examples.fracture.batchnorm import EnergyClassifier
from examples.fracture.heterogeneity import print_table
from examples.fracture.methods import ALONE, METHODS, TOGETHER, Method
from examples.fracture.scanners import Images, _rendered
from examples.fracture.trials import federated, loader, logits, on_common_scale, prepared, scores, trial, unseen
from lightning_fed.plan import Masking
from lightning_fed.radiology.oriented_energy import OrientedEnergy
from lightning_fed.radiology.synthetic.style import default_sites
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


def images(seed: int, count: int = 34) -> Images:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    image = 0.2 * torch.rand(count, 1, 56, 56, generator=generator)
    image[label == 1, :, 20:30] += 0.5
    return Images(image, label.float())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_is_scored_at_each_site(name):
    method, data = METHODS[name], {"north": (images(1), images(3)), "east": (images(2), images(4))}
    train = {site: own for site, (own, _) in prepared(method, data, data.keys()).items()}

    models = federated(method, train, seed=0, rounds=1 + method.tuned)

    for site, model in models.items():
        found = scores(logits(model, train[site], method.adapted), train[site])
        assert all(0 <= value <= 1 for value in found.values())
    assert all(isinstance(model, EnergyClassifier) == method.energy for model in models.values())
    weights = [model.head[2].weight for model in models.values()]
    own_head = method.tuned or name in ("FedPer", "FedRep", "Ditto", "Ditto + FedYogi")
    assert torch.equal(weights[0], weights[1]) != bool(own_head)


def test_a_stronger_shift_changes_the_scanner_and_not_the_patients():
    north, east = default_sites(2)
    for style in (north, east):
        weak, label, _ = _rendered(style, 4, 4, seed=0, strength=0.0)
        strong, same_label, _ = _rendered(style, 4, 4, seed=0, strength=1.0)
        assert torch.equal(label, same_label)
        # East's files are negatives, and without their headers nobody knows.
        turned = torch.corrcoef(torch.stack([weak.flatten(), strong.flatten()]))[0, 1]
        assert (turned < -0.5) == (style.photometric == "MONOCHROME1")


def test_the_common_scale_is_made_of_the_named_sites_alone():
    data = {"north": (images(1), images(2)), "east": (images(3), images(4))}
    alone = on_common_scale(data, ["north"])
    data["east"] = (Images(data["east"][0].image.square(), data["east"][0].label), data["east"][1])
    assert torch.equal(alone["north"][1].image, on_common_scale(data, ["north"])["north"][1].image)
    assert not torch.equal(alone["north"][1].image, on_common_scale(data, ["north", "east"])["north"][1].image)


@pytest.mark.parametrize("name", [*ALONE, *TOGETHER])
def test_training_without_a_federation_is_scored_at_each_site(name, monkeypatch):
    monkeypatch.setattr(trials, "ROUNDS", 1)
    data = {"north": (images(1), images(2)), "east": (images(3), images(4))}
    found = trial(name, data, 0)
    assert found.keys() == data.keys()
    if name in TOGETHER:
        (left_out,) = unseen(name, data, 0, [False])
        assert left_out.keys() == data.keys() and left_out != found


def test_a_turned_negative_is_what_it_was_and_energies_do_not_tell_it_from_the_other():
    style = default_sites(2)[1]
    negative, label, _ = _rendered(style, 6, 2, seed=0, strength=1.0)
    data = {"east": (Images(negative[:6], label[:6]), Images(negative[6:], label[6:]))}
    other = {"east": (Images(1 - negative[:6], label[:6]), Images(1 - negative[6:], label[6:]))}
    for method in (Method(turned=True), Method(turned=True, standardised=True), Method(energy=True)):
        for one, same in zip(
            prepared(method, data, ["east"])["east"], prepared(method, other, ["east"])["east"], strict=True
        ):
            torch.testing.assert_close(one.image, same.image, atol=2e-3, rtol=0)
            assert torch.equal(one.label, same.label)
    assert prepared(Method(energy=True), data, ["east"])["east"][0].image.shape == (6, 16, 6, 6)
    assert prepared(Method(), data, ["east"]) is data


def test_energies_made_once_train_the_same_model_as_a_first_layer():
    class FirstLayer(EnergyClassifier):
        def __init__(self) -> None:
            super().__init__(16, 6)
            self.energies = OrientedEnergy()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(self.energies(image))

    plain = {"north": (images(1), images(2)), "east": (images(3), images(4))}
    plan = dataclasses.replace(Method().plan(2), masking=Masking(mode="off"))  # Masks round at random.
    models = []
    for data in (plain, prepared(Method(energy=True), plain, plain.keys())):
        sites = []
        for site, (own, _) in data.items():
            torch.manual_seed(0)
            model = FirstLayer() if data is plain else EnergyClassifier(16, 6)
            sites.append(VirtualSite(site, model, loader(own, True)))
        federate_in_process(plan, sites, seed=0)
        models.append(sites[0].module.state_dict())

    assert models[0].keys() == models[1].keys()
    for name, value in models[0].items():
        torch.testing.assert_close(value, models[1][name], atol=1e-4, rtol=1e-4)


def test_gains_are_paired_by_seed(capsys):
    def at(auroc: float) -> dict[str, dict[str, float]]:
        return {"north": {"auroc": auroc, "sensitivity": 0.5, "ece": 0.1}}

    print_table({"FedAvg": [at(0.5), at(0.7)], "FedBN": [at(0.6), at(0.8)]})
    assert "| FedBN | 0.700 ± 0.141 | +0.100 ± 0.000 | 0.700 ± 0.141 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--leave-one-out", "--leave-one-out does not go with --scanners usual"),
        ("--methods FedBN", "--methods does not go with --scanners usual"),
        ("--scanners strong --config configs/fracture-study.yaml", "--config does not go with --scanners strong"),
        (
            "--scanners strong --methods FedNB",
            "there is no 'FedNB'; choose from 'alone', 'alone, Energy', 'centralised', 'centralised, Energy'",
        ),
        ("--scanners strong --leave-one-out --methods Ditto", "there is no 'Ditto' with --leave-one-out"),
        ("--scanners strong --sites 5", "--sites"),
        ("--seeds 0", "at least 1"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(line, says, capsys):
    with pytest.raises(SystemExit):
        study.read_options(line.split())
    assert says in capsys.readouterr().err


def test_the_comparison_is_called_like_the_study(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    scores = {site: {"auroc": auroc, "sensitivity": 0.5, "ece": 0.1} for site, auroc in (("north", 0.6), ("east", 0.8))}
    # What was finished before is not done again, so two seeds of two methods are there at once.
    for name in ("FedAvg-0", "FedAvg-1", "FedBN-0", "FedBN-1"):
        heterogeneity.kept(
            tmp_path / f"runs/heterogeneity/sites8-strength1-rounds20-width8/{name}.json", lambda: scores
        )
    line = "study --scanners strong --sites 8 --seeds 2 --methods FedAvg FedBN --figure sites.png"
    monkeypatch.setattr("sys.argv", line.split())

    study.main()

    assert "| FedBN | 0.700 ± 0.000 | +0.000 ± 0.000 | 0.600 ± 0.000 |" in capsys.readouterr().out
    assert (tmp_path / "sites.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", transfer.KINDS)
def test_a_federation_starts_from_scratch_or_from_a_trained_backbone(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "study", lambda *_: {"north": (images(1), images(3)), "east": (images(2), images(4))})
    monkeypatch.setattr(transfer, "site_images", lambda *_, **__: (images(5), images(6)))
    monkeypatch.setattr(transfer, "EPOCHS", 1)

    found = transfer.trial(transfer.Start("FedAvg", *kind), 0, tmp_path / "backbone.pt")

    assert 0 <= found["worst"] <= found["auroc"] <= 1
    # The whole network is 25,000 values, and a frozen one sends its head and batch normalisation alone.
    assert (found["up"] < 400_000) == (len(kind) > 1)
