import warnings

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger

from lightning_fed.errors import DataError
from lightning_fed.radiology import PooledRadiographs, RadiographDataModule, dataset, monai_training_transform


class Linear(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LazyLinear(1)
        self.images_seen = {"train": 0, "val": 0, "test": 0}
        self.layer(torch.zeros(1, 32 * 32))

    def _loss(self, batch, side):
        self.images_seen[side] += len(batch["label"])
        return torch.nn.functional.binary_cross_entropy_with_logits(
            self.layer(batch["image"].flatten(1))[:, 0], batch["label"]
        )

    def training_step(self, batch, index):
        return self._loss(batch, "train")

    def validation_step(self, batch, index):
        self._loss(batch, "val")

    def test_step(self, batch, index):
        self._loss(batch, "test")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


QUIET = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def small(root, **options):
    return RadiographDataModule(str(root), **{"image_size": 32, "batch_size": 8, **options})


def patients(side):
    return {row.patient_id for row in side.radiographs}


def count_reads(monkeypatch):
    reads = []
    original = dataset.read_radiograph
    monkeypatch.setattr(dataset, "read_radiograph", lambda path, **o: (reads.append(path.name), original(path, **o))[1])
    return reads


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_dicts_of_the_documented_shapes_and_types(write_site, workers):
    module = small(write_site(), num_workers=workers)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "image": ((8, 1, 32, 32), torch.float32),
        "label": ((8,), torch.float32),
        "salter_harris": ((8,), torch.int64),
    }
    assert torch.equal(batch["salter_harris"], 2 * batch["label"].long())


def test_sides_share_no_patient_and_cover_the_table(write_site):
    module = small(write_site(patients=20))
    sides = [patients(module.dataset(side)) for side in ("train", "val", "test")]
    assert [len(side) for side in sides] == [14, 3, 3]
    assert len(set.union(*sides)) == 20


def test_sides_of_the_table_are_kept(write_site):
    root = write_site(patients=9, split=lambda patient: ("train", "val", "test")[patient % 3])
    assert patients(small(root).dataset("test")) == {"patient-2", "patient-5", "patient-8"}


def test_case_rows_are_what_the_table_says_of_the_test_images_in_their_order(write_site):
    module = small(write_site(patients=30), test_fraction=0.5)
    rows, images = module.case_rows(), module.dataset("test")
    assert len(rows) == len(images) > 4
    for row, radiograph, sample in zip(rows, images.radiographs, images, strict=True):
        assert row["file"] == radiograph.path.relative_to(module.root).as_posix()
        assert row["patient"] == row["patient_id"] == radiograph.patient_id
        assert float(row["label"]) == float(row["fracture"]) == sample["label"]


def test_setup_reads_only_what_the_stage_needs_and_every_file_once(write_site, monkeypatch):
    reads = count_reads(monkeypatch)
    module = small(write_site(patients=20))
    module.setup("validate")
    assert len(reads) == 6
    module.setup("fit")
    module.setup("fit")
    assert len(reads) == 34
    for _ in range(2):
        list(module.train_dataloader())
    module.setup("test")
    assert len(reads) == len(set(reads)) == 40


def test_without_the_cache_the_same_images_are_decoded_at_every_access(write_site, monkeypatch):
    root = write_site(patients=6)
    cached, direct = small(root, augment=False), small(root, augment=False, cache=False)
    cached.setup("fit")
    direct.setup("fit")
    reads = count_reads(monkeypatch)
    first, second = cached.dataset("train")[0], direct.dataset("train")[0]
    assert torch.equal(first["image"], second["image"])
    assert len(reads) == 1


def test_augmentation_differs_between_accesses_in_training_only(write_site):
    module = small(write_site())
    train, val = module.dataset("train"), module.dataset("val")
    assert not torch.equal(train[0]["image"], train[0]["image"])
    assert torch.equal(val[0]["image"], val[0]["image"])


def test_transform_that_works_in_place_does_not_damage_the_cache(write_site):
    def blacken(sample):
        sample["image"].zero_()
        return sample

    module = small(write_site(), train_transform=blacken)
    assert module.dataset("train")[0]["image"].max() == 0
    assert module.dataset("train")._images[0].max() > 0


def test_monai_transform_gives_batches_of_plain_tensors(write_site):
    module = small(write_site(), train_transform=monai_training_transform(32))
    batch = next(iter(module.train_dataloader()))
    assert {type(value) for value in batch.values()} == {torch.Tensor}


def test_unreadable_files_are_listed_in_one_warning_and_skipped(write_site):
    module = small(write_site(damaged=("p1_0.dcm", "p2_1.dcm"), split=lambda patient: ("train", "val")[patient == 2]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.setup("fit")
        module.setup("fit")
    texts = [str(warning.message) for warning in caught if "radiographs cannot be read" in str(warning.message)]
    assert len(texts) == 1
    assert texts[0].startswith("2 radiographs")
    assert "p1_0.dcm" in texts[0] and "p2_1.dcm" in texts[0]
    assert (len(module.dataset("train")), len(module.dataset("val"))) == (37, 1)


def test_unreadable_file_is_an_error_when_asked_for(write_site):
    module = small(write_site(damaged=("p1_0.dcm",), split=lambda patient: "train"), unreadable="error")
    with pytest.raises(DataError, match=r"1 radiographs cannot be read.*p1_0\.dcm"):
        module.setup("fit")


def test_site_without_any_readable_training_file_is_refused(write_site):
    root = write_site(patients=2, damaged=("p0_0.dcm", "p0_1.dcm"), split=lambda patient: ("train", "val")[patient])
    with pytest.raises(DataError, match="none of the 2 train radiographs"):
        small(root).setup("fit")


def test_empty_training_side_is_refused(write_site):
    with pytest.raises(DataError, match="train side holds no radiographs"):
        small(write_site(split=lambda patient: "test")).setup("fit")


def test_trainer_fits_and_tests_and_skips_an_empty_validation(write_site):
    model = Linear()
    module = small(write_site(patients=10), val_fraction=0.0, test_fraction=0.2)
    trainer = Trainer(**QUIET)
    trainer.fit(model, datamodule=module)
    trainer.test(model, datamodule=module, verbose=False)
    assert model.images_seen == {"train": 16, "val": 0, "test": 4}


def test_neither_paths_nor_patients_reach_the_logger(write_site, tmp_path):
    root = write_site(name="st-marys-hospital", patients=6)
    logger = CSVLogger(tmp_path / "logs")
    module = small(root)
    Trainer(**{**QUIET, "logger": logger}).fit(Linear(), datamodule=module)
    assert dict(module.hparams) == {}
    written = "".join(file.read_text() for file in (tmp_path / "logs").rglob("*") if file.is_file())
    assert "st-marys" not in written and "patient-" not in written


def test_pooled_sides_are_the_union_of_the_sites_own_sides(write_site):
    roots = [str(write_site(name, patients=count, seed=count)) for name, count in (("one", 10), ("two", 20))]
    pooled = PooledRadiographs(roots, image_size=32, batch_size=100, augment=False)
    pooled.setup()
    for side in ("train", "val", "test"):
        images = [sample["image"] for root in roots for sample in small(root, augment=False).dataset(side)]
        expected = torch.stack(images)
        samples = pooled.dataset(side)
        assert torch.equal(torch.stack([samples[index]["image"] for index in range(len(samples))]), expected)
    batch = next(iter(pooled.test_dataloader()))
    assert batch["image"].shape == (len(pooled.dataset("test")), 1, 32, 32)


def test_pooled_trains_in_a_trainer(write_site):
    roots = [str(write_site(name, patients=10)) for name in ("one", "two")]
    model = Linear()
    Trainer(**QUIET).fit(model, datamodule=PooledRadiographs(roots, image_size=32))
    assert model.images_seen["train"] == 2 * 2 * 6


def test_no_folders_to_pool_are_refused():
    with pytest.raises(DataError, match="roots is empty"):
        PooledRadiographs([])


@pytest.mark.parametrize("options", [{"image_size": 0}, {"batch_size": 0}, {"unreadable": "ignore"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(DataError, match=next(iter(options))):
        RadiographDataModule("folder", **options)


@pytest.mark.parametrize("pooled", [False, True])
def test_lightning_cli_builds_the_module_from_yaml(write_site, tmp_path, pooled):
    root = write_site(patients=6)
    name, folders = (
        ("PooledRadiographs", f"roots: ['{root}']") if pooled else ("RadiographDataModule", f"root: '{root}'")
    )
    (tmp_path / "config.yaml").write_text(
        f"data:\n  class_path: lightning_fed.radiology.{name}\n"
        f"  init_args:\n    {folders}\n    image_size: 32\n    unreadable: error\n"
    )
    cli = LightningCLI(
        Linear,
        args=["--config", str(tmp_path / "config.yaml")],
        run=False,
        save_config_callback=None,
        trainer_defaults=QUIET,
    )
    cli.datamodule.setup("fit")
    assert next(iter(cli.datamodule.train_dataloader()))["image"].shape == (8, 1, 32, 32)
