"""Radiographs for Lightning: files to tensors, tables of labels, splits by patient, data modules."""

from typing import TYPE_CHECKING

from lightning_fed.deferred import deferred
from lightning_fed.radiology.labels import Radiograph, read_labels, salter_harris_from_ao
from lightning_fed.radiology.layouts import LayoutReader, read_fracatlas, read_grazpedwri, read_mura
from lightning_fed.radiology.splits import split_patients, split_radiographs

if TYPE_CHECKING:
    from lightning_fed.radiology.datamodule import RadiographDataModule
    from lightning_fed.radiology.dataset import RadiographDataset
    from lightning_fed.radiology.dicom import read_radiograph
    from lightning_fed.radiology.harmonisation import HistogramStandardisation, landmark_sums, standard_scale
    from lightning_fed.radiology.negatives import bone_bright, polarity
    from lightning_fed.radiology.oriented_energy import OrientedEnergy
    from lightning_fed.radiology.pictures import read_picture
    from lightning_fed.radiology.pooled import PooledRadiographs
    from lightning_fed.radiology.transforms import EvaluationTransform, TrainingTransform, monai_training_transform
else:
    # What needs PyTorch, too: the processes that write a synthetic study, and those that check a table, do without.
    __getattr__ = deferred(
        __name__,
        {"datamodule": ("RadiographDataModule",), "pooled": ("PooledRadiographs",)},
        without_lightning={
            "dataset": ("RadiographDataset",),
            "dicom": ("read_radiograph",),
            "harmonisation": ("HistogramStandardisation", "landmark_sums", "standard_scale"),
            "oriented_energy": ("OrientedEnergy",),
            "pictures": ("read_picture",),
            "negatives": ("bone_bright", "polarity"),
            "transforms": ("EvaluationTransform", "TrainingTransform", "monai_training_transform"),
        },
    )

__all__ = [
    "EvaluationTransform",
    "HistogramStandardisation",
    "LayoutReader",
    "OrientedEnergy",
    "PooledRadiographs",
    "Radiograph",
    "RadiographDataModule",
    "RadiographDataset",
    "TrainingTransform",
    "bone_bright",
    "landmark_sums",
    "monai_training_transform",
    "polarity",
    "read_fracatlas",
    "read_grazpedwri",
    "read_labels",
    "read_mura",
    "read_picture",
    "read_radiograph",
    "salter_harris_from_ao",
    "split_patients",
    "split_radiographs",
    "standard_scale",
]
