"""A contact sheet: a few images of each side and class exactly as the model gets them, in one PNG."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from lightning_fed.errors import DataError
from lightning_fed.radiology.dataset import RadiographDataset
from lightning_fed.radiology.labels import Split

_MADE_BY = "lightning-fed data check"
_COLUMNS = 6
_CAPTION = 18


def write_contact_sheet(datasets: Mapping[Split, RadiographDataset], path: Path) -> None:
    """Write a PNG with a strip of up to six images for each side and class, evenly spaced over the table.

    The images have been through the side's transform, so those for training are augmented. The file shows patients:
    only its owner may read it.

    Args:
        datasets: the sides of a data module.
        path: the file to write; it may exist only if this function wrote it.

    Raises:
        DataError: as in :func:`check_target`, the path cannot be written, there is no image, or a file has become
            unreadable since the data sets were made.
    """
    check_target(path)
    strips = [
        (f"{split}, {name}", images)
        for split, dataset in datasets.items()
        for fracture, name in ((0, "no fracture"), (1, "fracture"))
        if (images := _chosen(dataset, fracture))
    ]
    if not strips:
        raise DataError("no radiograph can be read, so there is no contact sheet; mend the files listed.")
    sheet = _drawn(strips)
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", _MADE_BY)
    try:
        path.touch(mode=0o600)
        sheet.save(path, pnginfo=info)
    except OSError as error:
        raise DataError(
            f"the contact sheet {path} cannot be written: {error.strerror}. Name another file with --sheet."
        ) from error


def check_target(path: Path) -> None:
    """Check that writing a contact sheet would overwrite nothing but a contact sheet.

    Args:
        path: the file to write.

    Raises:
        DataError: its name does not end in ``.png``, or it is another file.
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"the contact sheet {path} is a PNG; give it a name that ends in .png.")
    if not path.exists():
        return
    try:
        with Image.open(path) as picture:
            ours = picture.info.get("Software") == _MADE_BY
    except (OSError, UnidentifiedImageError):
        ours = False
    if not ours:
        raise DataError(f"{path} exists and is no contact sheet; name another file with --sheet.")


def _chosen(dataset: RadiographDataset, fracture: int) -> list[Tensor]:
    places = [place for place, row in enumerate(dataset.radiographs) if row.fracture == fracture]
    count = min(_COLUMNS, len(places))
    return [dataset[places[number * len(places) // count]]["image"] for number in range(count)]


def _drawn(strips: list[tuple[str, list[Tensor]]]) -> Image.Image:
    pictures = [(caption, to_pil_image(make_grid(images, nrow=_COLUMNS))) for caption, images in strips]
    width = max(picture.width for _, picture in pictures)
    sheet = Image.new("RGB", (max(width, 160), sum(picture.height + _CAPTION for _, picture in pictures)))
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(_CAPTION - 6), 0
    for caption, picture in pictures:
        pen.text((4, top + 2), caption, font=font, fill="white")
        sheet.paste(picture, (0, top + _CAPTION))
        top += picture.height + _CAPTION
    return sheet
