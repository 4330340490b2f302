"""Organs and lesions in volumes: MONAI in a federation, with nothing of radiographs or fractures."""

from examples.segmentation.data import VolumeDataModule
from examples.segmentation.segmenter import Segmenter

__all__ = ["Segmenter", "VolumeDataModule"]
