"""``python -m lightning_fed.simulation.job JOB.json``: trains and tests one model without the federation."""

import sys
from pathlib import Path

import msgspec

from lightning_fed.files import write_whole
from lightning_fed.simulation.config import Settings


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is trained and tested.

    Attributes:
        settings: ``model``, ``data``, ``trainer`` and ``seed_everything`` as in a site's config.
        checkpoint: Lightning checkpoint with the weights to test; None to train them first.
        test_data: the data module to test on.
        result: file that the test metrics are written to, as a JSON object.
    """

    settings: Settings
    checkpoint: str | None
    test_data: Settings
    result: str


def run(job: Job) -> dict[str, float]:
    """Train if there is no checkpoint, test, and give the test metrics."""
    # Imported here: the process that starts the jobs reads this file too and needs neither.
    from lightning_fed.cli.package import serve_config

    serve_config(job.settings)
    from lightning_fed.cli.lightning_cli import Modules
    from lightning_fed.coordinator.loading import load_weights

    modules = Modules(job.settings)
    if job.checkpoint is None:
        modules.trainer.fit(modules.model, datamodule=modules.datamodule)
    else:
        load_weights(modules.model, Path(job.checkpoint))
    test_data = Modules({"model": job.settings["model"], "data": job.test_data}).datamodule
    (metrics,) = modules.trainer.test(modules.model, datamodule=test_data)
    return {name: float(value) for name, value in metrics.items()}


def main(path: Path) -> None:
    """Do the job in a file."""
    job = msgspec.json.decode(path.read_bytes(), type=Job)
    write_whole(Path(job.result), msgspec.json.encode(run(job)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    main(Path(sys.argv[1]))
