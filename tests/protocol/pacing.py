"""A federation without sockets whose sites train at their own pace, with masks or without."""

import itertools
import random
from collections import defaultdict
from collections.abc import Callable

import torch
from wire import Wire, layout_of_size

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Save, Send


class Pacing(Wire):
    """A wire whose sites begin to train and end it when they are told to."""

    def __post_init__(self) -> None:
        self.training: dict[str, int] = {}
        self.content: dict[tuple[str, int], torch.Tensor] = {}
        self.earlier: dict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)
        self.trained_by: set[tuple[str, int, int]] = set()
        self.lives: dict[str, int] = dict.fromkeys(self.names, 0)
        self.slow: set[str] = set()
        self.dies_after_saving = False
        super().__post_init__()

    def perform(self, actions) -> None:
        actions = [action for action in actions if not self.is_for_an_earlier_connection(action)]
        saves = [index for index, action in enumerate(actions) if isinstance(action, Save)]
        if not (saves and self.dies_after_saving):
            super().perform(actions)
            return
        self.dies_after_saving = False
        super().perform(actions[: saves[0] + 1])
        self.restart()

    def is_for_an_earlier_connection(self, action) -> bool:
        """As the hub has it: a connection hears nothing before its Hello was heard."""
        return isinstance(action, Send) and any(isinstance(message, m.Hello) for message, _ in self.up[action.site])

    def restart(self) -> None:
        """The coordinator dies and is started again; the sites have to connect anew."""
        for name in self.sites:
            self.disconnect(name)
        self.start()
        for name in self.sites:
            self.connect(name)

    def new_process(self, name: str) -> None:
        """A site dies and is started again."""
        self.disconnect(name)
        self.sites.pop(name, None)
        self.training.pop(name, None)
        self.lives[name] += 1
        self.connect(name)

    def train(self, name: str) -> bool:
        """Join or begin to train, and end it unless the site is slow."""
        site = self.sites[name]
        if site.plan and not site.joined and site._layout is None:
            self.up[name].extend(site.join(layout_of_size(self.size)))
            return True
        return self.begin(name) or (name not in self.slow and self.end(name))

    def begin(self, name: str) -> bool:
        site = self.sites[name]
        if name in self.training or site.model is None or site.over or not site.joined:
            return False
        # As the round loop has it: whose update was refused waits for a newer model.
        if self.plan.masking.mode == "required" and (name, self.lives[name], site.model[0] + 1) in self.trained_by:
            return False
        round = site.begin_next()
        if round is None or (site._pace is None and (name, round) in self.content):
            return False
        self.trained_by.add((name, self.lives[name], round))
        self.training[name] = round
        return True

    def end(self, name: str) -> bool:
        if name not in self.training:
            return False
        round, site = self.training.pop(name), self.sites[name]
        seed = 100_000 * self.lives[name] + 1000 * round + self.names.index(name)
        update = torch.randn(self.size, generator=torch.Generator().manual_seed(seed))
        if self.plan.masking.mode == "required":
            update /= update.abs().max()  # or a later cohort's may lie beyond the bound, and be cut to it
        if (name, round) in self.content:
            self.earlier[name, round].append(self.content[name, round])
        self.content[name, round] = update
        self.up[name].extend(site.submit(round, memoryview(update.numpy()).cast("B"), SiteReport(self.weight(name))))
        return True

    def weight(self, name: str) -> int:
        return 10 + self.names.index(name)


def updates_of(wire: Pacing) -> list[dict[str, int]]:
    """Of each version, the sites whose update it holds, and of which round that is, as the store says."""
    models = [wire.model, *wire.saved]
    assert [model.version for model in models] == list(range(len(models)))
    of_versions = []
    for before, after in itertools.pairwise(models):
        new = {site: round for site, round in after.counted.items() if before.counted.get(site, 0) != round}
        assert all(round > before.counted.get(site, 0) for site, round in new.items()), "no update twice"
        of_versions.append(new)
    return of_versions


def assert_every_version_is_the_weighted_mean_of_what_it_holds(wire: Pacing) -> None:
    vector, exponent = torch.zeros(wire.size, dtype=torch.float64), wire.plan.aggregation.staleness_exponent
    # Under masks an update's age counts when its cohort is formed; others may make versions while it is summed.
    most = wire.plan.aggregation.max_staleness + (len(wire.names) if wire.plan.masking.mode == "required" else 0)
    for before, model, updates in zip([wire.model, *wire.saved], wire.saved, updates_of(wire), strict=False):
        if not updates:
            assert wire.plan.masking.mode == "required", "only there a round is skipped"
            assert torch.equal(model.vector, before.vector)
            continue
        # A site that has died may have trained again from the same model: either update counts, and one of them only.
        choices = [[wire.content[each], *wire.earlier[each]] for each in updates.items()]
        vectors = []
        for contents in itertools.product(*choices):
            total = torch.zeros_like(vector)
            for (site, round), content in zip(updates.items(), contents, strict=True):
                staleness = model.version - round
                assert 0 <= staleness <= most
                total += content.double() * wire.weight(site) * (1 + staleness) ** -exponent
            vectors.append(vector + total / sum(wire.weight(site) for site in updates))
        vector = min(vectors, key=lambda each: float((each - model.vector).abs().max()))
        torch.testing.assert_close(model.vector, vector.float(), rtol=0, atol=1e-5)


def play(wire: Pacing, draw: random.Random, steps: int, *, rare: float, timer: Callable[[], str | None]) -> None:
    """Do something at random: sites and the coordinator go on, are lost, and start again.

    Args:
        wire: its sites need not be connected.
        draw: what is random.
        steps: how many things happen at most.
        rare: the share of them that are no part of a usual day.
        timer: which timer is to run out when that is drawn; None if none is.
    """
    wire.slow = set(wire.names)

    def lose(name: str) -> None:
        wire.disconnect(name)
        wire.perform(wire.coordinator.lost(name))

    def die_later(name: str) -> None:
        wire.dies_after_saving = True

    def expire(name: str) -> None:
        if due := timer():
            wire.expire(due)

    usual = [wire.deliver_up, wire.deliver_down, wire.train, wire.end]
    unusual = [lose, wire.connect, wire.new_process, die_later, expire, lambda name: wire.restart()]
    for _ in range(steps):
        if wire.coordinator.outcome is not None:
            break
        name = draw.choice(wire.names)
        act = draw.choice(unusual) if draw.random() < rare else draw.choice(usual)
        if name in wire.sites or act in (wire.connect, wire.new_process):
            act(name)
    assert_every_version_is_the_weighted_mean_of_what_it_holds(wire)
    wire.slow.clear()


def connect_anew(wire: Pacing) -> None:
    """All sites come back over new connections."""
    for name in wire.names:
        wire.disconnect(name)
        wire.connect(name)


def gather(wire: Pacing) -> None:
    """What is waited for before a round comes, or the time for it is over; then go on to the end."""
    for timer in list(wire.timers):
        if timer == "gather" and wire.coordinator.phase == "gathering":
            wire.expire(timer)
    wire.settle()
