"""``python -m lightning_fed.radiology.synthetic ROOT`` writes a study of synthetic radiographs."""

import argparse
import os
import sys
from collections.abc import Sequence

from lightning_fed.errors import DataError
from lightning_fed.radiology.synthetic.study import write_study
from lightning_fed.radiology.synthetic.style import default_sites


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the study that the command line asks for.

    Args:
        arguments: the command line without the program's name; the process's own by default.

    Returns:
        The exit status: 0, or 1 if the study cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_fed.radiology.synthetic", description=__doc__)
    parser.add_argument("root", help="folder of the study; each site becomes a folder in it")
    parser.add_argument("--images-per-site", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sites", type=int, default=4, help="number of sites, 1 to 8")
    options = parser.parse_args(arguments)
    # Of the processes that write: one a core, and numpy's threads would only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        written = write_study(
            options.root,
            default_sites(options.sites),
            images_per_site=options.images_per_site,
            seed=options.seed,
            processes=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        )
    except DataError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    if written:
        print(f"{options.sites} sites with {options.images_per_site} images each are in '{options.root}'.")  # noqa: T201
    else:
        print(f"'{options.root}' holds this study already; nothing to do.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
