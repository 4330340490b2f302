"""What a round costs the coordinator's state machine by roster, connected sites and cohort: no sockets, no disk.

    python benchmarks/cohort_states.py [--rounds 20]

Processor seconds of the coordinator's messages and actions alone, of updates of ten values without masks, and what it
sends. The sizes take turns, so that a machine is in one mood.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterable

import torch

from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Send
from lightning_fed.protocol.coordinator.session import GATHER, CoordinatorSession
from lightning_fed.protocol.members import Members
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

_SIZES = ((100, 100, 100), (1_000, 1_000, 100), (10_000, 1_000, 100))

_VALUES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    measured(*_SIZES[0], 2)  # what is loaded and made when it is first needed
    found = {size: [measured(*size, rounds)] for size in _SIZES}
    for size in reversed(_SIZES):
        found[size].append(measured(*size, rounds))
    print(f"{'known / connected / cohort':28}{'joining, s':>12}{'a round, ms':>12}  messages sent a round")
    for (known, connected, cohort), results in found.items():
        joining, seconds = (min(result[which] for result in results) for which in (0, 1))
        sent = ", ".join(f"{count:.0f} {name}" for name, count in sorted(results[0][2].items()))
        print(f"{f'{known:,} / {connected:,} / {cohort:,}':28}{joining:12.2f}{1000 * seconds:12.1f}  {sent}")


def measured(known: int, connected: int, cohort: int, rounds: int) -> tuple[float, float, dict[str, float]]:
    """Processor seconds until all have joined, and of a round, and by name the messages sent a round."""
    layout = Layout((TensorSpec("weight", (_VALUES,), "float32"),))
    names = [f"site-{index:05d}" for index in range(known)]
    members = Members({name: index.to_bytes(32, "big") for index, name in enumerate(names)})
    plan = FederationPlan(
        rounds=rounds + 1, quorum=cohort, cohort_size=cohort, metrics=["auroc"], masking=Masking("off")
    )
    model = GlobalModel(0, layout, torch.zeros(_VALUES), {})
    coordinator = CoordinatorSession(plan, "run", members, model, draw=random.Random(0))
    sent: Counter[str] = Counter()
    begun: list[str] = []
    credited: list[str] = []

    def perform(actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                sent[type(action.message).__name__] += 1
                if isinstance(action.message, m.Begin):
                    begun.append(action.site)
                elif isinstance(action.message, m.Credit):
                    credited.append(action.site)

    start = time.process_time()
    perform(coordinator.start())
    for name in names[:connected]:
        perform(coordinator.receive(name, m.Hello(m.VERSION, "benchmark", name)))
        perform(coordinator.receive(name, m.Join(layout, {}, members.digest)))
    joined = time.process_time()
    perform(coordinator.expired(GATHER))
    sent.clear()
    update = memoryview(torch.ones(_VALUES).numpy()).cast("B")
    before = time.process_time()
    for round in range(1, rounds + 1):
        training, begun[:] = list(begun), ()
        for name in training:
            perform(coordinator.receive(name, m.Report(round - 1, {"auroc": 0.5})))
            perform(coordinator.receive(name, m.Offer("update", round, len(update), 10)))
            while credited:
                perform(coordinator.receive(credited.pop(), m.Chunk("update", round, 0), update))
    seconds = (time.process_time() - before) / rounds
    return joined - start, seconds, {name: count / rounds for name, count in sent.items()}


if __name__ == "__main__":
    main()
