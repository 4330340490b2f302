"""The federation plan: what every site trains, how long, and when a round counts.

The coordinator owns the plan and sends its canonical bytes to each site; the SHA-256 of those bytes names it.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import msgspec

from lightning_fed.aggregation.contracts import Algorithm
from lightning_fed.aggregation.registry import algorithm_block, read_algorithm
from lightning_fed.errors import PlanError, PlanRefusedError
from lightning_fed.foreign import class_paths, is_foreign
from lightning_fed.plan.asynchronous import check_asynchronous
from lightning_fed.plan.best import BestModel
from lightning_fed.plan.checks import at_least
from lightning_fed.plan.compression import Compression
from lightning_fed.plan.evaluation import Evaluation
from lightning_fed.plan.masking import Masking
from lightning_fed.plan.privacy import Privacy
from lightning_fed.plan.soundness import check_best, check_composition, check_counted
from lightning_fed.plan.statistics import Statistics
from lightning_fed.plan.training import LocalTraining
from lightning_fed.wire import hash_of

LARGEST_EXAMPLES = 1 << 40
"""Most examples of a site: keeps the weighted sum far from float64's end."""

MAX_PLAN_BYTES = 1 << 18
"""Most bytes of a plan that a site reads: room for thousands of metrics' names."""


@dataclass(frozen=True)
class FederationPlan:
    """The agreement all sites train under.

    Args:
        name: the federation's name; a run's store belongs to one name.
        rounds: number of rounds.
        local: what a site does within a round.
        algorithm: how the updates move the global model: ``name`` and the settings of one of
            ``lightning_fed.aggregation.registry.ALGORITHMS``, or ``class_path`` and ``init_args`` of an
            ``Algorithm`` of another package, which every site's policy must allow.
        personal: shell patterns of tensors that stay at each site and are never exchanged, such as ``head.*``; two
            words stand for what a model's normalisation layers hold: ``normalisation`` (FedBN) for all of it,
            ``statistics`` (SiloBN) for their running statistics.
        masking: how updates are hidden from the coordinator.
        privacy: what is promised about patients and sites.
        compression: which part of an update is sent.
        quorum: fewest updates a round needs; fewer, and the round is tried again. Masks may need more, see
            ``lightning_fed.protocol.terms.quorum_of``; at its start the coordinator says how many it is.
        cohort_size: how many of the ready sites are drawn at random for a round; all of them when not given.
        gather_s: seconds the coordinator waits for more than the quorum of sites before the first round (and again
            after it had to pause), for its disk to be mended when something cannot be written, and at the end for
            sites, also those that are away, to fetch the final model.
        round_deadline_s: seconds after which a round closes with the updates it has. Longer than the slowest site
            takes: one that is late ``max_faults`` times in a row is left out of the next rounds, see there.
        max_attempts: how often a round is tried, and how many rounds in a row may be skipped, before the coordinator
            stops with an error.
        max_examples: most examples that a site may train on in a round, each counted as often as it was used: no site
            can weigh more than that, and none says that it does.
        max_faults: how often a site may keep the others waiting until a deadline, in a row or within ten rounds, or
            make an attempt fail, before it is left out of the next rounds: of five, and if it is late again after them,
            of ten, and so on. One that is caught harming the others is left out at once.
        metrics: names of logged metrics that each site reports on every new global model; nothing else is reported.
        best: by which of them the best global model is named, and whether the rounds end when none gets better; no
            model is named when not given.
        statistics: what the sites count together, once, in a federation that trains nothing; one that trains when not
            given. See ``lightning-fed statistics``.
        evaluation: what the sites measure together of models that are trained, once; nothing when not given. See
            ``lightning-fed evaluate``.

    Raises:
        PlanError: a value that no federation can run with.
    """

    name: str = "federation"
    rounds: int = 10
    local: LocalTraining = field(default_factory=LocalTraining)
    algorithm: dict[str, Any] = field(default_factory=lambda: {"name": "fedavg"})
    personal: list[str] = field(default_factory=list)
    masking: Masking = field(default_factory=Masking)
    privacy: Privacy = field(default_factory=Privacy)
    compression: Compression = field(default_factory=Compression)
    quorum: int = 2
    cohort_size: int | None = None
    gather_s: float = 60.0
    round_deadline_s: float = 3600.0
    max_attempts: int = 3
    max_examples: int = 1_000_000
    max_faults: int = 3
    metrics: list[str] = field(default_factory=list)
    best: BestModel | None = None
    statistics: Statistics | None = None
    evaluation: Evaluation | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name):
            raise PlanError(f"plan.name = {self.name!r} must be made of letters, digits, '-', '_' and '.'.")
        for name in ("rounds", "quorum", "max_attempts", "max_examples", "max_faults"):
            at_least(name, getattr(self, name), 1)
        if self.max_examples > LARGEST_EXAMPLES:
            raise PlanError(
                f"plan.max_examples = {self.max_examples} is above {LARGEST_EXAMPLES}, the most that a sum can hold."
            )
        for name, limit in (("gather_s", 0.0), ("round_deadline_s", 0.001)):
            at_least(name, getattr(self, name), limit)
            # The canonical bytes, and with them the hash, must not depend on whether somebody wrote 60 or 60.0.
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.cohort_size is not None and self.cohort_size < self.quorum:
            raise PlanError(
                f"plan.cohort_size = {self.cohort_size} is below plan.quorum = {self.quorum}: "
                "no round could ever complete. Raise the cohort size or lower the quorum."
            )
        # Every setting is spelt out, so that the hash does not depend on which ones somebody left to their defaults.
        algorithm = self.aggregation
        object.__setattr__(self, "algorithm", algorithm_block(algorithm))
        check_asynchronous(algorithm, self.masking, self.privacy, self.compression, self.cohort_size, self.metrics)
        check_composition(algorithm, self.masking, self.privacy, self.compression, self.quorum, self.metrics)
        check_best(self.best, self.metrics, self.privacy)
        if self.statistics is not None and self.evaluation is not None:
            raise PlanError(
                "plan.statistics and plan.evaluation are each counted in a federation of its own. Leave out one of the "
                "two, and count it in another run."
            )
        if self.counted is not None:
            check_counted(
                "statistics" if self.statistics is not None else "evaluation",
                self.rounds,
                algorithm,
                self.masking,
                self.privacy,
                self.compression,
                self.personal,
                self.metrics,
            )
        algorithm.check_sites(self.quorum)

    @property
    def counted(self) -> Statistics | Evaluation | None:
        """What is counted in the place of training; None if the federation trains."""
        return self.statistics if self.statistics is not None else self.evaluation

    @property
    def aggregation(self) -> Algorithm:
        """The algorithm with its settings.

        Raises:
            PlanError: there is no such algorithm, or it has no such setting.
        """
        return read_algorithm(self.algorithm)

    @property
    def foreign_classes(self) -> list[str]:
        """Import paths of the classes of other packages that the plan names."""
        return sorted(set(class_paths(dataclasses.asdict(self))))

    def to_bytes(self) -> bytes:
        """Canonical JSON bytes of the plan (sorted keys, UTF-8)."""
        return self._canonical

    @cached_property
    def _canonical(self) -> bytes:
        return msgspec.json.encode(dataclasses.asdict(self), order="sorted")

    @classmethod
    def from_bytes(cls, data: bytes, foreign: Collection[str] = ()) -> "FederationPlan":
        """Read canonical bytes back.

        Args:
            data: the bytes, of which nothing is assumed.
            foreign: import paths of the classes of other packages that the plan may name; no other is imported.

        Raises:
            PlanError: not a plan, or a plan with a setting this version does not know. Ignoring an unknown setting
                could mean training with less protection than agreed, so it is refused.
            PlanRefusedError: it names a class that ``foreign`` does not hold.
        """
        if len(data) > MAX_PLAN_BYTES:
            raise PlanError(f"the coordinator's plan has {len(data)} bytes, above the limit of {MAX_PLAN_BYTES}.")
        return _read(bytes(data), frozenset(foreign))

    @classmethod
    def without_foreign_classes(cls, data: bytes) -> "FederationPlan | None":
        """What can be read of a plan whose foreign classes ``from_bytes`` did not allow, which nobody may train by.

        Returns:
            The plan with what is the default in the place of each foreign class; None if that is no plan.
        """
        try:
            return msgspec.convert(_built_in(msgspec.json.decode(data)), cls)
        except (msgspec.MsgspecError, PlanError, UnicodeDecodeError, RecursionError):
            return None

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical bytes, hexadecimal."""
        return hash_of(dataclasses.asdict(self))


@lru_cache(maxsize=2)  # thousands of sites of one process read the same plan
def _read(data: bytes, foreign: frozenset[str]) -> FederationPlan:
    try:
        # Once, and not again with types: of a key that stands twice each reading could take another value.
        settings = msgspec.json.decode(data)
        barred = sorted(set(class_paths(settings)) - foreign)
        if barred:
            violation = (
                f"the plan names the classes {barred} of other packages, and this site's policy does not allow "
                "them; nothing was imported. Read their code, install their package here, and add them to the "
                "policy (foreign_classes); or have the plan use a built-in algorithm."
            )
            raise PlanRefusedError(violation, [violation])
        plan = msgspec.convert(settings, FederationPlan)
        canonical = plan.to_bytes()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # JSON is decoded by recursion, which Python bounds; a plan has no depth of its own that could be checked.
        raise PlanError(f"the coordinator's plan cannot be read: {error}. Is its version newer?") from error
    if canonical != data:
        raise PlanError(
            "the coordinator's plan has settings that this version of lightning_fed does not know. "
            "Install the coordinator's version at this site."
        )
    return plan


def _built_in(settings: Any) -> Any:
    """Settings without those that name foreign classes."""
    if isinstance(settings, dict):
        return {name: _built_in(value) for name, value in settings.items() if not is_foreign(value)}
    return [_built_in(value) for value in settings if not is_foreign(value)] if isinstance(settings, list) else settings
