"""What masking costs: a masked round beside a plain one of the same run, and how it goes with a hundred sites.

    python benchmarks/masking.py --sites 8 --params 11200000 --bits 16 [--rounds 5] [--json FILE]
    python benchmarks/masking.py --sites 100 --params 1000000 --processes 4 --rounds 2

Sites do not train, so nothing hides the cost: in a real round the keys are agreed on while the sites train.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rounds import measured_rounds, print_coordinator

_MEASURE = """
import {modules}
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(*(int(status[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon")))
"""


def imported_mb(modules: str) -> tuple[float, float]:
    """Resident and anonymous memory of a fresh interpreter that has imported ``modules`` and done nothing else."""
    command = [sys.executable, "-c", _MEASURE.format(modules=modules)]
    resident, anonymous = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(resident), float(anonymous)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--params", type=int, default=11_200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--processes", type=int, help="spread the sites over so many; without it each has its own")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    plain = measured_rounds(arguments.sites, arguments.params, arguments.rounds, "off", processes=arguments.processes)
    masked = measured_rounds(
        arguments.sites, arguments.params, arguments.rounds, "required", arguments.bits, arguments.processes
    )
    dense = 4 * arguments.params
    result = {
        "plain": plain,
        "masked": masked,
        "bits": arguments.bits,
        "ratio_to_plain": masked["seconds_per_round"] / plain["seconds_per_round"],
        "share_of_dense_bytes_up": masked["bytes_up_per_site"] / dense,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    print(f"{'':24}{'plain':>16}{'masked':>16}{'ratio':>8}")
    for name, label in (
        ("seconds_per_round", "seconds a round"),
        ("bytes_up_per_site", "bytes up, a site"),
        ("bytes_down_per_site", "bytes down, a site"),
        ("site_peak_mb", "sites' process peak, MB"),
    ):
        print(f"{label:24}{plain[name]:16,.3f}{masked[name]:16,.3f}{masked[name] / plain[name]:8.2f}")
    for name, part in (("plain", plain), ("masked", masked)):
        print(f"\n{name}")
        print_coordinator(part)
    print("\nimports alone, MB       " + f"{'resident':>12}{'anonymous':>12}")
    for what in ("torch", "torch, lightning", "lightning_fed.coordinator.service"):
        resident, anonymous = imported_mb(what)
        print(f"{what:36}{resident:12.0f}{anonymous:12.0f}")
    print(f"bytes up: {result['share_of_dense_bytes_up']:.4f} of dense float32; b/32 = {arguments.bits / 32:.4f}")


if __name__ == "__main__":
    main()
