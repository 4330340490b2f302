"""A site's folder of NIfTI volumes, read with MONAI's dictionary transforms and data sets."""

from pathlib import Path

from lightning.pytorch import LightningDataModule
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)

from lightning_fed.radiology import split_patients

_BOTH = ("image", "label")


class VolumeDataModule(LightningDataModule):
    """Volumes ``images/NAME.nii.gz`` with their labels ``labels/NAME.nii.gz``, one patient each.

    Batches are dicts: ``image`` float32 ``(B, 1, H, W, D)`` in [0, 1] and ``label`` float32 of the same shape, whole
    numbers. Every volume is turned to the same orientation and resampled to the same voxel size.

    Args:
        root: the site's folder.
        size: voxels of a volume in each direction; what is smaller is padded, what is larger cropped.
        voxel_mm: side of a voxel.
        batch_size: volumes a batch.
        val_fraction: share of the patients for validation.
        test_fraction: share of the patients for the test.
    """

    def __init__(
        self,
        root: str,
        size: tuple[int, int, int] = (32, 32, 24),
        voxel_mm: float = 2.0,
        batch_size: int = 2,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.batch_size = batch_size
        self.fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        self.prepared = [
            LoadImaged(_BOTH),
            EnsureChannelFirstd(_BOTH),
            Orientationd(_BOTH, axcodes="RAS", labels=None),
            Spacingd(_BOTH, pixdim=(voxel_mm,) * 3, mode=("bilinear", "nearest")),
            ScaleIntensityRangePercentilesd("image", lower=1, upper=99, b_min=0.0, b_max=1.0, clip=True),
            ResizeWithPadOrCropd(_BOTH, spatial_size=size),
            # Plain tensors: what MONAI remembers of each step would travel with every batch.
            EnsureTyped(_BOTH, track_meta=False),
        ]
        self.augmented = [
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            RandGaussianNoised("image", std=0.05, prob=0.5),
        ]
        self.datasets: dict[str, Dataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Divide the patients and prepare the training volumes once; they stay in memory."""
        if self.datasets:
            return
        names = sorted(path.name for path in (self.root / "images").glob("*.nii.gz"))
        sides = split_patients(dict.fromkeys(names, False), **self.fractions)
        for side in ("train", "val", "test"):
            files = [
                {"image": self.root / "images" / name, "label": self.root / "labels" / name}
                for name in names
                if sides[name] == side
            ]
            if side == "train":
                transform = Compose([*self.prepared, *self.augmented])
                self.datasets[side] = CacheDataset(files, transform, num_workers=None, progress=False)
            else:
                self.datasets[side] = Dataset(files, Compose(self.prepared))

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled, augmented training batches."""
        return DataLoader(self.datasets["train"], batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Return the validation batches."""
        return DataLoader(self.datasets["val"], batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """Return the test batches."""
        return DataLoader(self.datasets["test"], batch_size=self.batch_size)
