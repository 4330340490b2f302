"""Flower's deployment engine for the table: a SuperLink, and a SuperNode for each site, without TLS.

As its documentation starts it: state in memory, and apps in subprocesses that SuperLink and SuperNode start themselves.
TLS is left off, which can only make it faster. ``--poll-s`` sets an environment variable that only its source knows:
how often SuperLink and SuperNode look for a task to start, 1 s unless it says otherwise. What is then left of a round's
waiting cannot be configured.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

LINK = "127.0.0.1:8000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="beside two that are not counted")
    parser.add_argument("--marks", type=Path, required=True)
    parser.add_argument("--poll-s", type=float)
    options = parser.parse_args()
    here, commands = Path(__file__).parent, Path(sys.executable).parent
    shutil.copytree(here / "flower_app", "app")
    os.environ |= {
        "FLWR_HOME": str(Path("home").absolute()),
        "PYTHONPATH": str(here),
        "PEER_SITES": str(options.sites),
        "PEER_PARAMS": str(options.params),
        "PEER_ROUNDS": str(options.rounds),
        "PEER_MARKS": str(options.marks),
    }
    if options.poll_s:
        os.environ["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = str(options.poll_s)
    Path("home").mkdir()
    Path("home/config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{LINK}"\ninsecure = true\n'
    )
    services = [[commands / "flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]]
    for index in range(options.sites):
        node = [commands / "flower-supernode", "--insecure", "--superlink", LINK, "--port", str(9200 + index)]
        services.append(node)
    started = [subprocess.Popen(service) for service in services]
    while subprocess.run([commands / "flwr", "run", ".", "here"], cwd="app", check=False).returncode:
        time.sleep(1)  # until SuperLink listens
    marked = options.marks / "rounds"
    while not marked.exists() or len(marked.read_text().splitlines()) < options.rounds + 2:
        if any(process.poll() is not None for process in started):
            sys.exit("SuperLink or a SuperNode has ended.")
        time.sleep(0.2)
    for process in started:
        process.terminate()


if __name__ == "__main__":
    main()
