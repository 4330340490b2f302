"""A checkpoint that stands in for a published one, made in minutes from hospitals that take no part.

A fracture is a few pixels of an image. A large network that pools its features over the whole image trains for long
before it finds any, and a small one that knows where it looks finds them at once. So the small one is trained first,
and the large one learns to predict its features, beside the labels.

Source: Romero et al. 2015, FitNets: Hints for Thin Deep Nets, arXiv 1412.6550; here the hints are a map of 7 x 7
places in the middle, and the last features, predicted from the pooled ones.
"""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples.fracture.backbones import BackboneClassifier
from examples.fracture.batchnorm import BatchNormClassifier
from examples.fracture.scanners import SIZE, Images, site_images
from examples.fracture.trials import BATCH_SIZE, TEST_IMAGES, changed, loader, logits, scores
from lightning_fed.radiology.negatives import bone_bright
from lightning_fed.radiology.synthetic.style import default_sites
from lightning_fed.simulation.in_process import QUIET

PATIENTS_OF_SEED, IMAGES = 100, 4000
"""Whose images they are, and how many of each of the four hospitals."""

TEACHER_WIDTH, TEACHER_EPOCHS = 16, 4

# Half the time of float32 on a processor with matrix units.
_PRECISION = "bf16-mixed"


class Student(LightningModule):
    """A large network that learns labels and the teacher's features.

    Batches hold images, labels, the teacher's last features ``(B, F)``, and its map of 7 x 7 places ``(B, C, 7, 7)``.
    The large network's own map of 7 x 7 places must predict the teacher's, too, where a child of its backbone gives
    one: ``layer2`` of a ResNet, the patches of a transformer.

    Args:
        model: what learns.
        features: how many features the teacher has.
        channels: of the teacher's map.
        lr: highest learning rate of AdamW, in one cycle.
    """

    def __init__(self, model: BackboneClassifier, features: int, channels: int, lr: float = 1e-3) -> None:
        super().__init__()
        self.model = model
        self.lr = lr
        assert isinstance(model.head, nn.Linear)
        self.predicted = nn.Linear(model.head.in_features, features)
        self.map: Tensor | None = None
        for child in model.backbone.children():
            child.register_forward_hook(self._keep)
        model.features(torch.zeros(2, 1, SIZE, SIZE))
        self.predicted_map = None if self.map is None else nn.Conv2d(self.map.shape[1], channels, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss: of the labels, and the squared errors of features and map."""
        image, label, wanted, wanted_map = batch
        features = self.model.features(image)
        loss: Tensor = self.model.loss(self.model.head(features).flatten(), label)
        loss = loss + nn.functional.mse_loss(self.predicted(features), wanted)
        if self.predicted_map is not None:
            loss = loss + nn.functional.mse_loss(self.predicted_map(self.map), wanted_map)
        return loss

    def _keep(self, module: nn.Module, given: object, out: Tensor) -> None:
        if isinstance(out, Tensor) and out.shape[2:] == (7, 7):
            self.map = out

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW, and a rate that rises for a fifth of the steps and then falls."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=1e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps, pct_start=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def made(backbone: str, path: Path, epochs: int) -> Path:
    """A checkpoint in place of a published one; made once. Prints what it is worth on other patients there.

    Args:
        backbone: its name, as ``BackboneClassifier`` takes it.
        path: where the backbone's state dict is written.
        epochs: how often it sees each image.
    """
    if path.exists():
        return path
    images, others = [], []
    for style in default_sites(8)[4:]:
        train, test = site_images(style, IMAGES, TEST_IMAGES, seed=PATIENTS_OF_SEED, strength=1.0)
        images.append(train)
        others.append(turned(test))
    everything = turned(Images(torch.cat([i.image for i in images]), torch.cat([i.label for i in images])))
    seed_everything(PATIENTS_OF_SEED, verbose=False)
    teacher = _teacher(everything)
    last, middle = (_seen(layers, everything.image) for layers in (teacher, teacher[:2]))
    model = BackboneClassifier(backbone).to(memory_format=torch.channels_last)
    student = Student(model, last.flatten(1).shape[1], middle.shape[1])
    data = TensorDataset(everything.image, everything.label, last.flatten(1), middle)
    batches = DataLoader(data, BATCH_SIZE, shuffle=True)
    Trainer(max_epochs=epochs, precision=_PRECISION, gradient_clip_val=1.0, **QUIET).fit(student, batches)
    found = [scores(logits(model, test), test)["auroc"] for test in others]
    print(f"{path}: AUROC {sum(found) / len(found):.3f} with its own head, on other patients of its hospitals")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.backbone.state_dict(), path)
    return path


def turned(images: Images) -> Images:
    """The images with negatives turned: the pixels themselves say which are."""
    return changed(images, bone_bright)


def _teacher(images: Images) -> nn.Sequential:
    """The small network's backbone, trained with labels."""
    model = BatchNormClassifier(TEACHER_WIDTH).to(memory_format=torch.channels_last)
    Trainer(max_epochs=TEACHER_EPOCHS, **QUIET).fit(model, loader(images, True))
    assert isinstance(model.backbone, nn.Sequential)
    return model.backbone.eval()


def _seen(layers: nn.Module, image: Tensor) -> Tensor:
    """The maps that layers make of images, float32 ``(N, C, H, W)``; each channel with mean 0 and deviation 1."""
    with torch.no_grad():
        maps = torch.cat([layers(part) for part in image.split(250)])
    deviation, mean = torch.std_mean(maps, dim=(0, 2, 3), keepdim=True)
    return (maps - mean) / (deviation + 1e-3)
