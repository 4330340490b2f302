"""lightning_fed beside Flower, NVFlare and pfl-research: seconds, bytes, memory and processor seconds of a round.

    make bench-peers                                                       # 1 M parameters, 4 sites; about 10 minutes
    make bench-peers PEERS_ARGS="--sites 2 4 8 16 32 --params 10000 1000000 11200000 25000000"     # most of a day

One run after the other on this machine, each in the environment of its own that `make bench-peers` made, over loopback
alone. Nobody trains: sites send back what they got. Only "small CNN" trains: each site of the round's cohort one epoch
on 32 images. A figure is the median (seconds) or the mean (all else) over the rounds after the first two or more.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import rich
from marks import marks
from process_tree import NotMeasuredError, Roles, namespace, run, work_folder
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
# No peer may call home; in a network namespace of their own they could not anyway.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}

_PACKAGES = {"flower": "flwr"}
"""Names of packages by environment, where they differ."""


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        name: what it is called there.
        driver: the script that runs it, and what it is called with beside the setting.
        peer: the environment that it runs in; None for the project's own.
        roles: which of its processes is what.
        remark: what a reader must know to compare it.
        quick: whether a round takes so little that more of them are run, for the processor's clock is coarse.
        in_process: whether all sites are in one process.
    """

    name: str
    driver: tuple[str, ...]
    peer: str | None
    roles: Roles
    remark: str
    quick: bool = False
    in_process: bool = False


OURS = Roles(site=r"--role site-", coordinator=r"--role coordinator")
DEPLOYED = Roles(site="flower-supernode", coordinator="flower-superlink")
ONE = Roles(root="coordinator")
SYSTEMS = {
    "ours": System(
        "lightning_fed",
        ("ours_on_loopback.py",),
        None,
        OURS,
        "a process each; encrypted (CURVE), each global model stored durably before a site hears of it",
        quick=True,
    ),
    "ours-masked": System(
        "lightning_fed, masked",
        ("ours_on_loopback.py", "--masking", "required"),
        None,
        OURS,
        "likewise, and the coordinator learns the sum only",
        quick=True,
    ),
    "flower": System(
        "Flower, deployment engine",
        ("flower_deployment.py",),
        "flower",
        DEPLOYED,
        "SuperLink and SuperNodes with their apps' processes; NOT encrypted; nothing stored; what an app and its "
        "SuperNode or SuperLink tell each other is also in the bytes",
    ),
    "flower-polled": System(
        "Flower, deployment, polling",
        ("flower_deployment.py", "--poll-s", "0.05"),
        "flower",
        DEPLOYED,
        "likewise, and it looks for tasks every 0.05 s instead of every second, by an undocumented variable",
    ),
    "flower-simulation": System(
        "Flower, simulation engine",
        ("flower_simulation.py",),
        "flower",
        Roles(root="coordinator", site=r"^ray::|default_worker\.py"),
        "Ray; a worker for each core plays the sites in turns, a model passes in shared memory; 'site' is a worker, "
        "the coordinator all else of Ray too",
    ),
    "nvflare": System(
        "NVFlare, simulator",
        ("nvflare_simulator.py",),
        "nvflare",
        Roles(root="coordinator", site="simulator_worker"),
        "the recommended recipe: a process for each site, the server is in the simulator's; NOT encrypted",
    ),
    "nvflare-polled": System(
        "NVFlare, simulator, polling",
        ("nvflare_simulator.py", "--poll-s", "0.05"),
        "nvflare",
        Roles(root="coordinator", site="simulator_worker"),
        "likewise, and sites ask for tasks every 0.05 s instead of every 2 s",
    ),
    "ours-in-process": System(
        "lightning_fed, in one process",
        ("ours_in_process.py",),
        None,
        ONE,
        "no sockets, nothing stored; the Trainers that take turns run through their batches",
        quick=True,
        in_process=True,
    ),
    "pfl": System(
        "pfl-research",
        ("pfl_in_process.py",),
        "pfl",
        ONE,
        "simulated backend in one process; no sockets, nothing stored",
        quick=True,
        in_process=True,
    ),
}


@dataclass(frozen=True)
class Setting:
    """What a system is asked for: sites, and parameters, or None for the small CNN that is trained."""

    sites: int
    params: int | None
    cohort: int

    def __str__(self) -> str:
        if self.params is None:
            return f"small CNN, {self.cohort} of {self.sites:,} sites"
        return f"{self.params:,} parameters, {self.sites} sites"


@dataclass(frozen=True)
class Row:
    """A system's figures in a setting, or why there are none.

    Attributes:
        system: key of ``SYSTEMS``.
        setting: in words.
        version: of the system.
        rounds: how many are counted.
        seconds: a round, median.
        bytes_per_site: over loopback, both ways together and with the headers of TCP, a round and site.
        coordinator_mb: peak resident memory, 10^6 bytes.
        site_mb: likewise, of the site that had most.
        coordinator_cpu_s: processor seconds a round.
        sites_cpu_s: likewise, of all sites together.
        why_not: why there are no figures.
    """

    system: str
    setting: str
    version: str
    rounds: int
    seconds: float | None = None
    bytes_per_site: float | None = None
    coordinator_mb: float | None = None
    site_mb: float | None = None
    coordinator_cpu_s: float | None = None
    sites_cpu_s: float | None = None
    why_not: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="*", default=[4])
    parser.add_argument("--params", type=int, nargs="*", default=[1_000_000])
    parser.add_argument(
        "--in-process", type=int, nargs="*", default=[1_000], help="numbers of sites of the small CNN, in one process"
    )
    parser.add_argument("--cohort", type=int, default=10, help="of them, how many train in a round")
    parser.add_argument("--rounds", type=int, help="how many are counted: 5, or up to 100 of those that take little")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--limit-s", type=float, default=300.0, help="seconds after which a run is ended and said so")
    parser.add_argument(
        "--environments", type=Path, default=Path(".venv-peers"), help="folder of the environments by package"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for setting in settings(options):
        for key in options.systems:
            if setting.params is not None or SYSTEMS[key].in_process:
                print(f"{setting}: {SYSTEMS[key].name} ...", file=sys.stderr, flush=True)
                rows.append(measured(key, setting, options))
                if options.json:  # after each row, so that a run that is cut short leaves what it has
                    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    # As wide as it needs, also where the output is not a terminal.
    console = Console(width=max(rich.get_console().width, 175), highlight=False)
    shown, reasons = table(rows)
    console.print(shown)
    for reason in reasons:
        console.print(f"Not measured: {reason}", soft_wrap=True, markup=False)
    for key in options.systems:
        console.print(f"{SYSTEMS[key].name}: {SYSTEMS[key].remark}.", soft_wrap=True, markup=False)
    console.print(about_the_machine(), soft_wrap=True, markup=False)


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """All that is asked for, the cheapest first."""
    for params, sites in itertools.product(sorted(options.params), sorted(options.sites)):
        yield Setting(sites, params, cohort=sites)
    for sites in sorted(options.in_process):
        yield Setting(sites, None, cohort=min(options.cohort, sites))


def measured(key: str, setting: Setting, options: argparse.Namespace) -> Row:
    """Run a system in a setting."""
    system = SYSTEMS[key]
    rounds = options.rounds or 5
    if system.quick and not options.rounds:
        # Some seconds of rounds, for the processor's clock ticks 100 times a second.
        most = 30 if setting.params is None else min(100, 200_000_000 // (setting.params * setting.sites))
        rounds = max(rounds, most)
    python = options.environments.absolute() / system.peer / "bin/python" if system.peer else Path(sys.executable)
    asked = ["--sites", str(setting.sites), "--rounds", str(rounds)]
    asked += ["--params", str(setting.params)] if setting.params else []
    asked += ["--cohort", str(setting.cohort)] if system.in_process else []
    row = Row(key, str(setting), "", rounds)
    if not python.exists():
        return Row(**asdict(row) | {"why_not": f"there is no {python}: run make bench-peers"})
    row = Row(**asdict(row) | {"version": version(python, system.peer)})
    ours = os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))
    environment = QUIET | ({"PYTHONPATH": ours} if not system.peer else {})
    with work_folder() as work:
        ends = Path(work, "marks")
        ends.mkdir()
        command = [str(python), str(HERE / system.driver[0]), *system.driver[1:], *asked, "--marks", str(ends)]
        try:
            seen, _ = run(command, environment, Path(work), system.roles, options.limit_s)
        except NotMeasuredError as error:
            counted = max(0, len(marks(ends)) - 2)
            return Row(**asdict(row) | {"why_not": f"{error}; {counted} of {rounds} rounds were over"})
        # One more end than there are rounds.
        counted_ends = marks(ends)[-rounds - 1 :]
    if len(counted_ends) <= rounds:
        return Row(**asdict(row) | {"why_not": f"only {len(counted_ends)} rounds ended"})
    (start, carried), (end, carried_at_end) = counted_ends[0], counted_ends[-1]
    both = {role: seen.processor_between(start, end, role) / rounds for role in ("coordinator", "site")}
    apart = system.roles.site is not None
    return Row(
        **asdict(row)
        | {
            "seconds": statistics.median(after[0] - before[0] for before, after in itertools.pairwise(counted_ends)),
            "bytes_per_site": (carried_at_end - carried) / rounds / setting.cohort if apart else None,
            "coordinator_mb": seen.peak_mb.get("coordinator"),
            "site_mb": seen.peak_mb.get("site") if apart else None,
            "coordinator_cpu_s": both["coordinator"],
            "sites_cpu_s": both["site"] if apart else None,
        }
    )


def version(python: Path, peer: str | None) -> str:
    """The version of what runs in an environment."""
    package = _PACKAGES.get(peer, peer) if peer else "lightning_fed"
    asked = [str(python), "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "?"


def table(rows: Sequence[Row]) -> tuple[Table, list[str]]:
    """The rows as a table, a section for each setting, and why some were not measured.

    A round is compared with ours of its own kind: of processes, or in one process.
    """
    result, reasons = Table(title="A round, side by side"), list[str]()
    for name in ("setting", "system", "version"):
        result.add_column(name, no_wrap=name != "setting")
    for name in (
        "rounds counted",
        "seconds",
        "times ours",
        "MB over loopback, a site",
        "coordinator, peak MB",
        "a site, peak MB",
        "coordinator, processor s",
        "all sites, processor s",
    ):
        result.add_column(name, justify="right")
    for setting, in_it in itertools.groupby(rows, key=lambda row: row.setting):
        result.add_section()
        shown = setting
        section = list(in_it)
        for row in section:
            system = SYSTEMS[row.system]
            base = "ours-in-process" if system.in_process else "ours"
            ours = next((each.seconds for each in section if each.system == base), None)
            cells = [shown, system.name, row.version]
            if row.seconds is None:
                reasons.append(f"{setting}: {system.name}: {row.why_not}.")
                result.add_row(*cells, "not measured: see below")
            else:
                result.add_row(
                    *cells,
                    str(row.rounds),
                    f"{row.seconds:.4f}" if row.seconds < 1 else f"{row.seconds:.2f}",
                    f"{row.seconds / ours:.2f}" if ours else "",
                    *(
                        "-" if value is None else f"{value:,.{places}f}"
                        for value, places in (
                            (row.bytes_per_site and row.bytes_per_site / 1e6, 2),
                            (row.coordinator_mb, 0),
                            (row.site_mb, 0),
                            (row.coordinator_cpu_s, 3),
                            (row.sites_cpu_s, 3),
                        )
                    ),
                )
            shown = ""
    return result, reasons


def about_the_machine() -> str:
    """What to hold the figures against."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    alone = "in network namespaces of their own" if namespace() else "beside what else this machine's loopback carried"
    return (
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; load average at "
        f"the end {load}. Loopback counted {alone}. Bytes are both ways together, with TCP's headers; 1 MB = 10^6 "
        "bytes. Memory is resident, libraries included. Compare figures of one run only."
    )


if __name__ == "__main__":
    main()
