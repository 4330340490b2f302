"""The coordinator killed at every named point of its work: around each file, each event, each charge and each message.

A coordinator that was started again names the points as it visits them. Then a federation runs undisturbed, and another
one from the same beginning whose coordinator kills itself at the first point, the next one at the second, and so on.
Training is deterministic and all sites take part in each round, so every global model must be the same in both runs.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from modules import Plain, train
from processes import PATIENCE_S, Federation, Program, _coordinate

from lightning_fed.cli import audit
from lightning_fed.coordinator import store
from lightning_fed.coordinator.events import EventLog
from lightning_fed.plan import Compression, FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger import Ledger
from lightning_fed.privacy.ledger_lines import Charged
from lightning_fed.transport.hub import Hub

SITES = 3
MASKED, OPEN = Masking("required", bits=32, bound=256.0), Masking("off")
PLANS: dict[str, dict[str, Any]] = {
    "fedavg": {"masking": MASKED},
    "scaffold": {"masking": MASKED, "algorithm": {"name": "scaffold"}},
    # Without masks, which round at random: a block that hardly wins could lose in the other run.
    "vote": {"masking": OPEN, "compression": Compression("vote", share=0.3, values="float32", block=4)},
    "masked vote": {"masking": MASKED, "compression": Compression("vote", share=1.0, block=4)},
    "noise": {"masking": MASKED, "privacy": Privacy(site=SitePrivacy("distributed", 2.0))},
}
_BOUND = 1e-5
"""Largest difference between two runs whose fixed-point values were rounded at random."""


def coordinate_to(
    plan: FederationPlan, address: str, keys: Path, folder: Path, point: str, visit: int, names: Path | None
) -> str:
    """Serve until the federation has finished, or until a point is visited so many times.

    Args:
        plan: the plan.
        address: where to listen.
        keys: folder of the keys.
        folder: the store.
        point: where to die; empty for nowhere.
        visit: at which visit.
        names: file that the names of points are added to at that visit.
    """
    visits: Counter[str] = Counter()

    def at(name: str, last_act: Callable[[], Any] = lambda: None) -> None:
        visits[name] += 1
        if names and visits[name] == visit:
            with names.open("a") as file:
                file.write(name + "\n")
        if name == point and visits[name] == visit:
            last_act()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, method: str, name_of: Callable[..., str]) -> None:
        real = getattr(owner, method)

        def watched(*args: Any, **settings: Any) -> Any:
            name = name_of(*args)
            at(f"before {name}")
            result = real(*args, **settings)
            at(f"after {name}")
            return result

        setattr(owner, method, watched)

    real_replace = Path.replace

    def replace(temporary: Path, path: Path) -> Path:
        at(f"torn {_kind(path)}", lambda: os.truncate(temporary, temporary.stat().st_size // 2))
        at(f"inside {_kind(path)}")
        return real_replace(temporary, path)

    Path.replace = replace
    around(store, "write_whole", lambda path, *_: _kind(path))
    around(EventLog, "write", lambda _, event, *__: f"event {event}")
    around(Ledger, "charge", lambda *_: "charge")
    around(Hub, "send", lambda _, __, message, *___: f"message {type(message).__name__}")
    return _coordinate(plan, address, keys, folder, Plain)


def _kind(path: Path) -> str:
    return path.suffix if path.stem.isdecimal() else path.name


class Killed:
    """One federation of three sites, undisturbed or with a coordinator that is killed again and again.

    Args:
        folder: where it is written.
        plan: settings of the plan.
        rounds: its rounds.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], rounds: int) -> None:
        folder.mkdir()
        names = [f"site-{index}" for index in range(SITES)]
        self.here = Federation(folder, FederationPlan(rounds=rounds, quorum=SITES, gather_s=30.0, **plan), names)
        self._names = folder / "points"

    def run(self, points: list[tuple[str, int]], last_visit: int = 0) -> list[str]:
        """To the end; the points where a coordinator has died. The last one names those that it visits so often."""
        here, died = self.here, []
        sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
        for point, visit in [*points, ("", last_visit)]:
            names = None if point else self._names
            coordinator = Program(coordinate_to, here.plan, here.address, here.keys, here.store, point, visit, names)
            deadline = time.monotonic() + PATIENCE_S
            while (ended := coordinator.ended()) is None:
                assert time.monotonic() < deadline, f"nothing comes of it after dying at {died}"
                time.sleep(0.01)
            if ended[0] == "result":
                break
            assert ended[1] == f"exit code {-signal.SIGKILL}", f"at {point}: {ended[1]}"
            died.append(point)
        assert ended[0] == "result", "the federation has not come to its end"
        states = [site.result()["state"] for site in sites]
        last = self.models()[-1]
        assert all(torch.equal(state[name], last[name]) for state in states for name in last)
        return died

    def points(self) -> list[str]:
        """Names of the points that the last coordinator has visited so often, in their order."""
        return self._names.read_text().split("\n")[:-1]

    def models(self) -> list[dict[str, torch.Tensor]]:
        """Every global model, and nothing else in the store."""
        folder, rounds = self.here.store / "models", self.here.plan.rounds
        for kind in ("safetensors", "ckpt"):
            assert len(list(folder.glob(f"*.{kind}"))) == rounds + 1
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        return [self.here.model(version) for version in range(rounds + 1)]

    def check_rounds(self) -> None:
        """Each round has ended once, and no round was released without its charge."""
        ends = [event["round"] for kind in ("round_finished", "round_recovered") for event in self.here.events(kind)]
        assert sorted(ends) == list(range(1, self.here.plan.rounds + 1)), ends
        if self.here.plan.privacy.site:
            history = read_history(self.here.store / "ledger.jsonl")
            charged = {entry.release.round for entry in history.entries if isinstance(entry, Charged)}
            assert charged == set(ends), (charged, ends)
        folders = [self.here.folder / name for name in self.here.sites]
        assert audit.run(["audit", "verify", str(self.here.store), *map(str, folders)]) == 0


def compare(folder: Path, name: str, most: int | None, visit: int) -> list[str]:
    """Both runs of one plan.

    Args:
        folder: an empty one.
        name: of the plan.
        most: points to die at, evenly from all of them; all when None.
        visit: at which visit to die.

    Returns:
        The points where a coordinator has died.
    """
    dry = Killed(folder / "names", PLANS[name], 3)
    dry.run([("after event round_finished", 1)], visit)
    points = dry.points()
    if most:
        points = [points[index * len(points) // most] for index in range(most)]
    rounds = len(points) + 2
    through, killed = Killed(folder / "through", PLANS[name], rounds), Killed(folder / "killed", PLANS[name], rounds)
    through.run([])
    died = killed.run([(point, visit) for point in points])
    missed = [point for point in points if point not in died]
    # Three sites leave once each, whatever number of coordinators dies of it.
    assert all(point.endswith(("site_left", "Farewell")) for point in missed), missed
    killed.check_rounds()
    if "privacy" not in PLANS[name]:
        for version, (one, other) in enumerate(zip(through.models(), killed.models(), strict=True)):
            for tensor in one:
                torch.testing.assert_close(
                    other[tensor], one[tensor], rtol=0, atol=_BOUND, msg=lambda text, v=version: f"{v}: {text}"
                )
    return died


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", nargs="*", default=[*PLANS])
    parser.add_argument("--most", type=int)
    arguments = parser.parse_args()
    total = 0
    for name in arguments.plans:
        for visit in (1, 2):
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                died = compare(Path(folder), name, arguments.most, visit)
            total += len(died)
            print(
                f"{name}: killed at visit {visit} of {len(died)} points; every model as without: "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    print(f"{total} kills at named points, no illegal state")
    return 0


if __name__ == "__main__":
    sys.exit(main())
