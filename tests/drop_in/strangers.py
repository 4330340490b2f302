"""LightningModules that nobody here wrote, each with synthetic data of its own kind.

A case is a function of the site's number: it makes the module as its package's documentation does, small, and the data
that this site trains on. Weights begin alike at all sites, since the seed is set before. Packages are imported inside,
as few of them are there in every environment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

SIZES = (12, 20)
"""Examples of the two sites."""

BATCH = 4
SEED = 7

WRAPPED = "In a LightningModule of a few lines: the package has none."


@dataclass(frozen=True)
class Stranger:
    """One module.

    Attributes:
        package: what must be installed, as it is imported.
        module: its class, as its package names it.
        kind: of task.
        make: gives the module and what ``Trainer.fit`` takes beside it, its data, for a site.
        own: beginnings of the names of what each site keeps.
        warned: text of the warning that says so.
        note: a sentence for the page.
        given: the coordinator must give the first model, since the site's does not look untrained.
    """

    package: str
    module: str
    kind: str
    make: Callable[[int], tuple[Any, ...]]
    own: tuple[str, ...] = ()
    warned: str = ""
    note: str = ""
    given: bool = False

    def __str__(self) -> str:
        return f"{self.package}.{self.module}"


STRANGERS: dict[str, Stranger] = {}


def stranger(package: str, module: str, kind: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a case."""

    def register(make: Callable[[int], tuple[Any, ...]]) -> Callable[[int], tuple[Any, ...]]:
        STRANGERS[make.__name__] = Stranger(package, module, kind, make, **more)
        return make

    return register


def module_of(case: str) -> Any:
    """The module of a case, as every site makes it."""
    torch.manual_seed(SEED)
    return STRANGERS[case].make(0)[0]


def random(site: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 + site)


class Rows(Dataset):
    """A data set of anything that can be made from a row's number."""

    def __init__(self, site: int, row: Callable[[torch.Generator], Any]) -> None:
        generator = random(site)
        self._rows = [row(generator) for _ in range(SIZES[site])]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


def images(site: int, collate: Any = None, size: int = 32, **targets: Callable[[torch.Generator], Any]) -> DataLoader:
    """Images of random pixels, with targets, as dictionaries."""

    def row(generator: torch.Generator) -> dict[str, Any]:
        image = torch.rand(3, size, size, generator=generator)
        return {"image": image, **{name: make(generator) for name, make in targets.items()}}

    return DataLoader(Rows(site, row), batch_size=BATCH, collate_fn=collate)


def label(classes: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randint(classes, (), generator=generator)


# In every environment


@stranger("lightning", "pytorch.demos.LightningTransformer", "language model")
def lightning_transformer(site: int) -> tuple[Any, ...]:
    from lightning.pytorch.demos.transformer import LightningTransformer

    class Offline(LightningTransformer):
        def prepare_data(self) -> None:
            """Would load a text from the internet."""

    tokens = torch.randint(16, (SIZES[site], 9), generator=random(site))
    return Offline(vocab_size=16), DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), BATCH)


@stranger("lightning", "pytorch.demos.boring_classes.ManualOptimBoringModel", "manual optimisation")
def lightning_manual(site: int) -> tuple[Any, ...]:
    from lightning.pytorch.demos.boring_classes import ManualOptimBoringModel

    return ManualOptimBoringModel(), DataLoader(torch.randn(SIZES[site], 32, generator=random(site)), BATCH)


@stranger("torchvision", "models.detection.ssdlite320_mobilenet_v3_large", "detection", note=WRAPPED)
def torchvision_detection(site: int) -> tuple[Any, ...]:
    import lightning as L
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    class Detector(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return sum(self.net([image for image, _ in batch], [target for _, target in batch]).values())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-3)

    def row(generator: torch.Generator) -> Any:
        box = torch.tensor([[8.0, 8.0, 40.0, 40.0]]) + 8 * torch.rand(1, 4, generator=generator)
        return torch.rand(3, 64, 64, generator=generator), {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}

    return Detector(), DataLoader(Rows(site, row), BATCH, collate_fn=list)


@stranger("monai", "networks.nets.UNet", "segmentation", note=WRAPPED)
def monai_unet(site: int) -> tuple[Any, ...]:
    import lightning as L
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet

    class Segmenter(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = UNet(3, 1, 2, (4, 8, 16), (2, 2), norm="batch")
            self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(self.net(batch["image"]), batch["mask"])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    def row(generator: torch.Generator) -> Any:
        image = torch.rand(1, 8, 8, 8, generator=generator)
        return {"image": image, "mask": (image > 0.5).float()}

    return Segmenter(), DataLoader(Rows(site, row), BATCH)


# In the environment of `make drop-in`


@stranger("torchgeo", "trainers.ClassificationTask", "classification")
def torchgeo_classification(site: int) -> tuple[Any, ...]:
    from torchgeo.trainers import ClassificationTask

    data = images(site, label=label(3))
    return ClassificationTask(model="resnet18", num_classes=3), data, data


@stranger("torchgeo", "trainers.SemanticSegmentationTask", "segmentation")
def torchgeo_segmentation(site: int) -> tuple[Any, ...]:
    from torchgeo.trainers import SemanticSegmentationTask

    def mask(generator: torch.Generator) -> Tensor:
        return torch.randint(3, (32, 32), generator=generator)

    data = images(site, mask=mask)
    return SemanticSegmentationTask(model="unet", backbone="resnet18", num_classes=3), data, data


@stranger("torchgeo", "trainers.ObjectDetectionTask", "detection")
def torchgeo_detection(site: int) -> tuple[Any, ...]:
    from torchgeo.trainers import ObjectDetectionTask

    def box(generator: torch.Generator) -> Tensor:
        return torch.tensor([[4.0, 4.0, 40.0, 40.0]]) + 8 * torch.rand(1, 4, generator=generator)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = {name: [row[name] for row in rows] for name in rows[0]}
        return {**stacked, "image": torch.stack(stacked["image"])}

    data = images(site, collate, 64, bbox_xyxy=box, label=lambda generator: torch.ones(1, dtype=torch.int64))
    return ObjectDetectionTask(model="fcos", backbone="resnet18", num_classes=2, trainable_layers=5), data, data


@stranger(
    "torchgeo",
    "trainers.BYOLTask",
    "self-supervised",
    given=True,
    note="Needs `model:` at the coordinator: its constructor runs a batch, and a site gives only an untrained model.",
)
def torchgeo_byol(site: int) -> tuple[Any, ...]:
    from torchgeo.trainers import BYOLTask

    return BYOLTask(model="resnet18"), images(site)


@stranger(
    "torchgeo",
    "trainers.MoCoTask",
    "self-supervised",
    own=("backbone_momentum", "projection_head_momentum", "criterion.memory_bank"),
    warned="training changes the frozen parameters ['backbone_momentum.",
    note="Each site keeps its own momentum encoder and memory bank, and a warning says so.",
)
def torchgeo_moco(site: int) -> tuple[Any, ...]:
    from torchgeo.trainers import MoCoTask

    return MoCoTask(model="resnet18", version=2, memory_bank_size=16, size=32), images(site)


@stranger("lightly", "utils.benchmarking.LinearClassifier", "self-supervised, linear evaluation")
def lightly_linear(site: int) -> tuple[Any, ...]:
    from lightly.utils.benchmarking import LinearClassifier

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    data = TensorDataset(
        torch.rand(SIZES[site], 3, 16, 16, generator=random(site)),
        torch.randint(5, (SIZES[site],), generator=random(site)),
    )
    return LinearClassifier(backbone, BATCH, feature_dim=8, num_classes=5), DataLoader(data, BATCH)


@stranger("anomalib", "models.Ganomaly", "GAN")
def anomalib_gan(site: int) -> tuple[Any, ...]:
    from anomalib.data import ImageBatch
    from anomalib.models import Ganomaly
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Resize

    def collate(rows: list[dict[str, Tensor]]) -> Any:
        return ImageBatch(image=torch.stack([row["image"] for row in rows]))

    module = Ganomaly(
        batch_size=BATCH,
        n_features=8,
        latent_vec_size=8,
        pre_processor=PreProcessor(Resize((32, 32))),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    return module, images(site, collate)


@stranger("chemprop", "models.MPNN", "graph")
def chemprop_graph(site: int) -> tuple[Any, ...]:
    from chemprop import data, models
    from chemprop import nn as layers

    molecules = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "C1CCCCC1", "CCCl", "COC", "CC#N"]
    generator = random(site)
    points = [
        data.MoleculeDatapoint.from_smi(molecules[index % 8], torch.randn(1, generator=generator).numpy())
        for index in range(SIZES[site])
    ]
    loader = data.build_dataloader(data.MoleculeDataset(points), batch_size=BATCH, shuffle=False)
    encoder = layers.BondMessagePassing(d_h=16)
    return models.MPNN(encoder, layers.MeanAggregation(), layers.RegressionFFN(input_dim=16, hidden_dim=8)), loader


@stranger("pytorch_forecasting", "TemporalFusionTransformer", "forecasting")
def pytorch_forecasting_tft(site: int) -> tuple[Any, ...]:
    import pandas as pd
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet

    series = range(SIZES[site] // 4)
    values = torch.randn(len(series) * 13, generator=random(site)).double()
    frame = pd.DataFrame(
        {
            "time": [step for _ in series for step in range(13)],
            "series": [str(index) for index in series for _ in range(13)],
            "value": values.numpy(),
        }
    )
    data = TimeSeriesDataSet(
        frame,
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=8,
        max_prediction_length=2,
        time_varying_unknown_reals=["value"],
        time_varying_known_reals=["time"],
    )
    module = TemporalFusionTransformer.from_dataset(
        data, hidden_size=8, attention_head_size=1, hidden_continuous_size=4
    )
    return module, data.to_dataloader(train=True, batch_size=BATCH, shuffle=False)


@stranger("gluonts", "torch.model.deepar.DeepARLightningModule", "forecasting")
def gluonts_deepar(site: int) -> tuple[Any, ...]:
    from gluonts.torch.model.deepar.lightning_module import DeepARLightningModule

    module = DeepARLightningModule(
        {
            "freq": "D",
            "context_length": 4,
            "prediction_length": 2,
            "num_feat_dynamic_real": 1,
            "num_feat_static_real": 1,
            "num_feat_static_cat": 1,
            "cardinality": [1],
            "hidden_size": 8,
            "lags_seq": [1, 2],
        }
    )

    def row(generator: torch.Generator) -> dict[str, Tensor]:
        inputs = {
            name: torch.rand(spec.shape[1:], generator=generator).to(spec.dtype)
            for name, spec in module.inputs.data.items()
        }
        future = {
            "future_target": torch.rand(2, generator=generator),
            "future_observed_values": torch.ones(2),
        }
        return {**inputs, **future, "past_observed_values": torch.ones_like(inputs["past_observed_values"])}

    return module, DataLoader(Rows(site, row), BATCH)


def _cells(site: int) -> Any:
    import anndata

    counts = torch.poisson(3 * torch.rand(SIZES[site], 10, generator=random(site)), generator=random(site))
    cells = anndata.AnnData(counts.numpy())
    cells.obs["batch"] = [str(index % 2) for index in range(len(cells))]
    return cells


@stranger("scvi", "train.TrainingPlan", "single-cell")
def scvi_vae(site: int) -> tuple[Any, ...]:
    from scvi.dataloaders import AnnDataLoader
    from scvi.model import SCVI
    from scvi.train import TrainingPlan

    cells = _cells(site)
    SCVI.setup_anndata(cells, batch_key="batch")
    model = SCVI(cells, n_hidden=8, n_latent=2)
    data = AnnDataLoader(model.adata_manager, batch_size=BATCH)
    return TrainingPlan(model.module), data


@stranger("scvi", "train.AdversarialTrainingPlan", "single-cell, adversarial")
def scvi_adversarial(site: int) -> tuple[Any, ...]:
    from scvi.dataloaders import AnnDataLoader
    from scvi.model import SCVI
    from scvi.train import AdversarialTrainingPlan

    cells = _cells(site)
    SCVI.setup_anndata(cells, batch_key="batch")
    model = SCVI(cells, n_hidden=8, n_latent=2)
    data = AnnDataLoader(model.adata_manager, batch_size=BATCH)
    return AdversarialTrainingPlan(model.module, adversarial_classifier=True), data


@stranger("pytorch_tabular", "models.CategoryEmbeddingModel", "tabular")
def pytorch_tabular_embedding(site: int) -> tuple[Any, ...]:
    import pandas as pd
    from pytorch_tabular import TabularModel
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
    from pytorch_tabular.models import CategoryEmbeddingModelConfig

    values = torch.randn(SIZES[site], 3, generator=random(site)).double().numpy()
    frame = pd.DataFrame(values, columns=["a", "b", "target"])
    frame["kind"] = ["x", "y"] * (SIZES[site] // 2)
    tabular = TabularModel(
        data_config=DataConfig(target=["target"], continuous_cols=["a", "b"], categorical_cols=["kind"]),
        model_config=CategoryEmbeddingModelConfig(task="regression", layers="8"),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(batch_size=BATCH),
        verbose=False,
    )
    data = tabular.prepare_dataloader(frame, validation=frame[:4], seed=1)
    return tabular.prepare_model(data), data.train_dataloader(), data.val_dataloader()


@stranger("torch_uncertainty", "routines.ClassificationRoutine", "classification with uncertainty")
def torch_uncertainty_classification(site: int) -> tuple[Any, ...]:
    from torch_uncertainty.routines import ClassificationRoutine

    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    data = TensorDataset(
        torch.rand(SIZES[site], 3, 16, 16, generator=random(site)),
        torch.randint(3, (SIZES[site],), generator=random(site)),
    )
    routine = ClassificationRoutine(
        net, num_classes=3, loss=nn.CrossEntropyLoss(), optim_recipe=torch.optim.SGD(net.parameters(), 0.01)
    )
    return routine, DataLoader(data, BATCH)


@stranger("peft", "get_peft_model", "LoRA", note="Around a network in a LightningModule of a few lines.")
def peft_lora(site: int) -> tuple[Any, ...]:
    import lightning as L
    import peft

    class Adapted(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
            config = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["4"])
            self.net = peft.get_peft_model(net, config)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch["image"]), batch["label"])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)

    return Adapted(), images(site, label=label(2))
