"""The configs of real data, each on small files of the layout that it names."""

from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer
from public_layouts import graz, write_fracatlas, write_mura

from lightning_fed.cli.lightning_cli import Modules
from lightning_fed.radiology import RadiographDataModule
from lightning_fed.simulation.config import read_config
from lightning_fed.simulation.expansion import alone_config, site_settings

ROOT = Path(__file__).parents[2]
SIDES = ("train", "val", "test")
PUBLIC = [("grazpedwri", graz), ("fracatlas", write_fracatlas), ("mura", write_mura)]


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def config(name):
    return str(ROOT / "configs" / f"{name}.yaml")


def module(data, root):
    arguments = {**data["init_args"], "root": str(root), "image_size": 32}
    model = {"class_path": "examples.fracture.FractureClassifier"}
    return Modules({"model": model, "data": {**data, "init_args": arguments}}).datamodule


def rows(data, side):
    return data.dataset(side).radiographs


@pytest.mark.parametrize(("name", "write"), PUBLIC)
def test_sites_of_a_public_config_are_disjoint_and_together_the_pooled_baseline(tmp_path, name, write):
    simulation = read_config(["--config", config(name)])
    root = write(tmp_path)
    sites = [module(site_settings(simulation, site)["data"], root) for site in simulation.sites]
    pooled = module(simulation.baselines.pooled, root)
    for side in SIDES:
        members = [row.path for site in sites for row in rows(site, side)]
        assert sorted(members) == sorted(row.path for row in rows(pooled, side))
        assert members
    trained = {row.patient_id for site in sites for row in rows(site, "train")}
    held_out = {row.patient_id for side in ("val", "test") for row in rows(pooled, side)}
    assert not trained & held_out


def test_grazpedwri_config_divides_by_manufacturer(tmp_path):
    simulation = read_config(["--config", config("grazpedwri")])
    root = graz(tmp_path)
    makers = {
        site: {row.site for side in SIDES for row in rows(module(site_settings(simulation, site)["data"], root), side)}
        for site in simulation.sites
    }
    assert makers == {"siemens-1": {"siemens"}, "siemens-2": {"siemens"}, "siemens-3": {"siemens"}, "agfa": {"agfa"}}


@pytest.mark.parametrize(("name", "write"), PUBLIC)
def test_model_of_a_public_config_trains_and_logs_what_the_plan_reports(tmp_path, name, write):
    simulation = read_config(["--config", config(name)])
    settings = alone_config(simulation, simulation.sites[0], tmp_path / "run")
    settings["trainer"] |= {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False}
    modules = Modules({key: settings[key] for key in ("model", "trainer")})
    data = module(settings["data"], write(tmp_path / "data"))
    modules.trainer.fit(modules.model, datamodule=data)
    assert set(simulation.plan.metrics) <= set(modules.trainer.callback_metrics)
    (results,) = modules.trainer.test(modules.model, datamodule=data, verbose=False)
    assert simulation.baselines.metric in results


def test_config_of_a_dicom_folder_trains_on_a_hospitals_own_files(tmp_path, write_site):
    settings = yaml.safe_load(Path(config("dicom-folder")).read_text(encoding="utf-8"))
    assert settings["trainer"]["strategy"]["class_path"] == "lightning_fed.FederatedStrategy"
    data = module(settings["data"], write_site(patients=20))
    assert isinstance(data, RadiographDataModule)
    model = Modules({"model": settings["model"]}).model
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    assert "val_auroc" in trainer.callback_metrics
