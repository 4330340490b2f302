"""``lightning-fed data``: a site looks at its own data before it trains."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.console import Console

from lightning_fed.cli.parser import NamesNearest

_FILE_WIDTH = 160
"""Columns of a report that goes into a file."""

# The check decides these, or they change neither which images there are nor what they look like.
_NOT_ASKED = {
    *("root", "cache", "unreadable"),
    *("batch_size", "num_workers", "train_transform", "standard_scale", "harmonise"),
}


def run(arguments: Sequence[str]) -> int:
    """Run ``data check``.

    Returns:
        0, or 1 if a data module would refuse the data.

    Raises:
        FederationError: the table is invalid, or the contact sheet cannot be written.
    """
    options = _parser().parse_args(list(arguments[1:]))
    return _check(options[options.subcommand])


def _check(options: Namespace) -> int:
    settings = options.as_dict()
    folder, sheet = settings.pop("folder"), settings.pop("sheet")
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    check = _radiology("check")
    # Before every file is decoded, which can take long.
    check.check_target(sheet)
    with console.status("decoding every file once ..."):
        data = _radiology("datamodule").RadiographDataModule(str(folder), cache=False, **settings)
        found = check.survey(data)
    for part in check.report(found):
        console.print(part)
    if any(found.datasets.values()):
        check.write_contact_sheet(found.datasets, sheet)
        console.print(f"{sheet} shows some images as the model gets them.", markup=False)
    console.print("Nothing was sent. What is printed here names files and the sheet shows patients: keep both here.")
    return 1 if found.refusals else 0


def _radiology(module: str) -> Any:
    # By name, as a config names a data module: the federation runs without the radiology room and never imports it.
    return import_module(f"lightning_fed.radiology.{module}")


def _parser() -> NamesNearest:
    parser = NamesNearest(prog="lightning-fed data", description="Look at a site's data before it trains.")
    commands = parser.add_subcommands()
    check = NamesNearest(
        description="Show what a data module would see of a folder of radiographs: images by class, side and view, "
        "files that cannot be read, attributes, and a contact sheet. Nothing leaves this machine."
    )
    check.add_argument("folder", type=Path, help="the site's folder")
    check.add_argument("--sheet", type=Path, default=Path("contact-sheet.png"), help="PNG to write")
    check.add_class_arguments(_radiology("datamodule").RadiographDataModule, skip=_NOT_ASKED)
    commands.add_subcommand("check", check, help="show what a data module would see of a folder")
    return parser
