"""The page about adding your own: its examples run from a wheel, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = {re.match(r"# (\S+)\n", body)[1]: body for body in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)}
SECTIONS = ("A server algorithm", "A weighting", "A compressor of values", "A callback at a site", "A layout")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the examples, and Python that finds there this package as its wheel has it."""
    folder, target = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("target")
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    (wheel,) = wheels.glob("lightning_fed-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=240)
    for name, body in EXAMPLES.items():
        (folder / name).write_text(body)

    def python(*arguments):
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{target}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert str(target) in python("-c", "import lightning_fed; print(lightning_fed.__file__)")
    return folder, python


def test_each_section_has_an_example_of_at_most_forty_lines():
    for title in SECTIONS:
        section = PAGE.split(f"## {title}")[1].split("\n## ")[0]
        assert re.search(r"```python\n", section), title
    lengths = {name: len(body.splitlines()) for name, body in EXAMPLES.items() if name != "try_them.py"}
    assert all(length <= 40 for length in lengths.values()), lengths


@pytest.mark.slow
def test_the_algorithm_the_weighting_the_codec_and_the_callback_train(installed):
    out = installed[1]("try_them.py")
    learnt = {line.split()[0]: line for line in out.splitlines() if re.match(r"\w+ +\(\[", line)}
    vectors = {name: [float(v) for v in re.search(r"\[(.*?)\]", line)[1].split(",")] for name, line in learnt.items()}
    for name in ("unclipped", "weighted", "halves"):
        np.testing.assert_allclose(vectors[name], [1, 1, 1, 0], atol=0.15, err_msg=name)
    # Five rounds of at most 0.05 each do not lead there from anywhere that Linear starts.
    assert np.linalg.norm(np.subtract(vectors["clipped"], [1, 1, 1, 0])) > 0.3
    assert all(line.endswith("[5, 5])") for line in learnt.values())
    assert len(learnt) == 4


@pytest.mark.slow
def test_the_layout_is_read_by_the_data_module_that_names_it(installed):
    folder, python = installed
    for label in ("normal", "fracture"):
        (folder / "scans" / label).mkdir(parents=True)
        for patient in range(4):
            pixels = np.random.default_rng(patient).integers(0, 255, (20, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "scans" / label / f"p{patient}_1.png")
    settings = {"root": "scans", "layout": "my_layouts.read_folders", "image_size": 8, "batch_size": 8}
    (folder / "read.py").write_text(
        "from lightning_fed.radiology import RadiographDataModule\n"
        f"data = RadiographDataModule(**{settings!r}, val_fraction=0.25, test_fraction=0.25)\n"
        "data.setup('fit')\n"
        "print(sorted(next(iter(data.train_dataloader()))['label'].tolist()))\n"
    )
    assert python("read.py").splitlines()[-1] == "[0.0, 0.0, 1.0, 1.0]"


def test_each_yaml_on_the_page_names_an_example():
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]
    named = {path.split(".")[0] for path in re.findall(r"my_\w+\.\w+", str(blocks))}
    assert {f"{name}.py" for name in named} == EXAMPLES.keys() - {"try_them.py"}
