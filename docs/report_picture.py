"""Makes the pictures of a run's page and of the coordinator's terminal: trains a federation on this machine for them.

``make report-picture``, or ``python docs/report_picture.py [--out docs/pictures/report.png]
[--screen docs/pictures/coordinator.svg] [--folder FOLDER]``; with a folder, the run and the page stay there.
"""

import argparse
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from PIL import Image
from rich.console import Console

from lightning_fed.simulation.progress import EventTail, Progress
from lightning_fed.simulation.tables import live_view

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browser import chromium  # noqa: E402 - beside the tests

PLAN = {
    "name": "bright-spots",
    "rounds": 12,
    "quorum": 4,
    "cohort_size": 4,
    "metrics": ["val_loss", "val_auroc"],
    "best": {"metric": "val_auroc", "mode": "max"},
    "privacy": {"example": {"epsilon": 8}},
    "compression": {"method": "vote", "share": 0.05},
}
SITES = ["st-marys", "northfield", "riverside", "lakeview", "hill-road"]
WIDTH, HEIGHT = 1280, 1388


def main() -> None:
    """Train, report, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "pictures" / "report.png")
    parser.add_argument("--screen", type=Path, default=HERE / "pictures" / "coordinator.svg")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        page = train(options.folder or Path(temporary) / "run")
        draw(page.parent / "runs/first/store", options.screen)
        take(page, options.out)


def draw(store: Path, picture: Path) -> None:
    """Draw the coordinator's table as it was when half of the rounds were finished and the next had begun."""
    console = Console(record=True, width=WIDTH // 12, file=io.StringIO())
    progress = Progress([])
    for event in EventTail(store / "events.jsonl").new():
        progress.take(event)
        if event["event"] == "update_accepted" and event["round"] > PLAN["rounds"] / 2:
            break
    console.print(live_view(progress, PLAN["metrics"]))
    drawn = console.export_svg(title="lightning-fed coordinate --config coordinator.yaml")
    # A reader's own font of fixed width: rich names one that lies in the network.
    picture.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))


def train(folder: Path) -> Path:
    """Run the federation that ``lightning-fed init`` writes, with this plan; give its page."""
    _call("init", "--role", "simulation", "--folder", str(folder))
    config = folder / "simulation.yaml"
    settings = msgspec.yaml.decode(config.read_bytes())
    settings |= {"sites": SITES, "plan": settings["plan"] | PLAN}
    settings["model"]["init_args"] = {"width": 32}
    config.write_bytes(msgspec.yaml.encode(settings))
    _call("simulate", "--config", config.name, folder=folder)
    run = Path(settings["run"])
    ledgers = [str(run / "sites" / site / "ledger.jsonl") for site in SITES]
    _call("report", str(run / "store"), *ledgers, "--html", "report.html", folder=folder)
    return folder / "report.html"


def take(page: Path, picture: Path) -> None:
    """Photograph the beginning of a page."""
    with chromium(sys.exit) as browser:
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        view.goto(page.absolute().as_uri())
        view.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
        view.screenshot(path=picture)
    # Few colours are enough, and make fewer bytes; those of small areas must not get lost.
    Image.open(picture).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(picture, optimize=True)


def _call(*arguments: str, folder: Path | None = None) -> None:
    subprocess.run([sys.executable, "-m", "lightning_fed.cli.main", *arguments], cwd=folder, check=True)  # noqa: S603


if __name__ == "__main__":
    main()
