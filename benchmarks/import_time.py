"""What ``from lightning_fed import FederatedStrategy`` costs on top of importing Lightning.

    python benchmarks/import_time.py [--runs 5]

Each run is a new process under ``python -X importtime`` that imports Lightning first and this package after it, so both
are measured in the same run; the table shows the median of the runs and what is slowest in it.
"""

import argparse
import statistics
import subprocess
import sys
from typing import NamedTuple

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class Imported(NamedTuple):
    """A module's own time, without what it imports, in microseconds."""

    name: str
    microseconds: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    for package in PACKAGES:
        measured = [measure(package) for _ in range(runs)]
        before = statistics.median(total(first) for first, _ in measured)
        ours = sorted(measured, key=lambda one: total(one[1]))[runs // 2][1]
        print(f"{package}: {before:.0f} ms; lightning_fed on top of it: {total(ours):.0f} ms, {len(ours)} modules.")
        for module in sorted(ours, key=lambda one: -one.microseconds)[:5]:
            print(f"    {module.microseconds / 1000:6.1f} ms  {module.name}")


def measure(package: str) -> tuple[list[Imported], list[Imported]]:
    """What a new process imports for Lightning, and then for this package."""
    code = f"import {package}\nfrom lightning_fed import FederatedStrategy"
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    rows = [line.removeprefix("import time:").split("|") for line in result.stderr.splitlines() if "|" in line][1:]
    names = [row[2] for row in rows]
    # Only what the script itself imports has no indentation beyond the first blank.
    end = names.index(f" {package}") + 1
    modules = [Imported(name.strip(), int(own)) for own, _, name in rows]
    return modules[:end], modules[end:]


def total(modules: list[Imported]) -> float:
    """Milliseconds."""
    return sum(module.microseconds for module in modules) / 1000


if __name__ == "__main__":
    main()
