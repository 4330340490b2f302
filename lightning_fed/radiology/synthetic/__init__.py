"""Synthetic radiographs of children's wrists: real DICOM files of hospitals that do not exist."""

from lightning_fed.radiology.synthetic.study import Patient, patients, write_study
from lightning_fed.radiology.synthetic.style import SiteStyle, default_sites

__all__ = ["Patient", "SiteStyle", "default_sites", "patients", "write_study"]
