"""What reading one large radiograph takes, measured in a process of its own."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import radiograph_dataset
from PIL import Image

# The largest detectors have about half as many pixels.
SIDE = 8000
RAW_BYTES = 2 * SIDE**2
CHILD = """
import sys
from pathlib import Path
from lightning_fed.radiology import RadiographDataset, read_picture, read_radiograph
path, size = Path(sys.argv[1]), (96, 96) if sys.argv[2] == "small" else None
def kib(name):
    # The high-water mark of this process; that of getrusage begins at its parent's.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))
before = kib("VmRSS")
image = (read_picture if path.suffix == ".png" else read_radiograph)(path, size=size)
print(1024 * (kib("VmHWM") - before), *image.shape)
"""


@pytest.fixture(scope="module")
def pixels():
    """Return every one of the 16-bit values in a gradient that compresses fast."""
    line = np.arange(SIDE, dtype=np.uint16) * 4
    return np.add.outer(line, line)


def peak_bytes(path, size):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), size], capture_output=True, text=True, check=True, timeout=200
    )
    peak, *shape = (int(word) for word in child.stdout.split())
    assert shape == [1, 96, 96] if size == "small" else [1, SIDE, SIDE]
    return peak


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("kind", "size"), [("dicom", "whole"), ("window", "small"), ("png", "whole")])
def test_large_image_takes_at_most_four_times_its_pixels_in_memory(tmp_path, pixels, kind, size):
    path = tmp_path / ("large.png" if kind == "png" else "large.dcm")
    if kind == "png":
        Image.fromarray(pixels).save(path, compress_level=1)
    else:
        window = {"WindowCenter": 30000, "WindowWidth": 50000, "PixelPaddingValue": 0} if kind == "window" else {}
        signed = {"signed": True, "RescaleSlope": 2} if kind == "window" else {}
        radiograph_dataset(pixels, **window, **signed).save_as(path, enforce_file_format=True)
        assert path.stat().st_size == pytest.approx(RAW_BYTES, rel=0.01)
    assert peak_bytes(path, size) <= 4 * RAW_BYTES
