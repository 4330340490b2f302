"""What a data module sees of a folder, for the people at the site: nothing here is made to leave it."""

from lightning_fed.radiology.check.contact_sheet import check_target, write_contact_sheet
from lightning_fed.radiology.check.report import report
from lightning_fed.radiology.check.survey import Survey, survey

__all__ = ["Survey", "check_target", "report", "survey", "write_contact_sheet"]
