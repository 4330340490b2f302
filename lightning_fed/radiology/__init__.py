"""Radiographs for Lightning: files to tensors, tables of labels, splits by patient, data modules."""

from typing import TYPE_CHECKING

from lightning_fed.deferred import deferred
from lightning_fed.radiology.dataset import RadiographDataset
from lightning_fed.radiology.dicom import read_radiograph
from lightning_fed.radiology.harmonisation import HistogramStandardisation, landmark_sums, standard_scale
from lightning_fed.radiology.labels import Radiograph, read_labels, salter_harris_from_ao
from lightning_fed.radiology.layouts import LayoutReader, read_fracatlas, read_grazpedwri, read_mura
from lightning_fed.radiology.pictures import read_picture
from lightning_fed.radiology.splits import split_patients, split_radiographs
from lightning_fed.radiology.transforms import EvaluationTransform, TrainingTransform, monai_training_transform

if TYPE_CHECKING:
    from lightning_fed.radiology.datamodule import RadiographDataModule
    from lightning_fed.radiology.pooled import PooledRadiographs
else:
    __getattr__ = deferred(__name__, {"datamodule": ("RadiographDataModule",), "pooled": ("PooledRadiographs",)})

__all__ = [
    "EvaluationTransform",
    "HistogramStandardisation",
    "LayoutReader",
    "PooledRadiographs",
    "Radiograph",
    "RadiographDataModule",
    "RadiographDataset",
    "TrainingTransform",
    "landmark_sums",
    "monai_training_transform",
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
