"""What a site has let be opened: each survivor set is written down before it is signed.

Two sums over the same updates, or over two trainings that started from the same model, show by their difference what
the sites in only one of them have sent. So of each round, and of each global model, a site signs one survivor set and
no other, also after it was started again, in another run, and whatever number the model is announced under.
"""

from collections.abc import Callable, Iterable

import msgspec

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol.messages import Purpose

_CURE = (
    "Bring those sites back, or have the coordinator start a new run from another model than those that it has had "
    "trained."
)

REPORTED: frozenset[Purpose] = frozenset({"presence", "metrics"})
"""The sums that are over a model's metrics and not over what was trained from it."""


class SignedSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A masked sum whose survivor set a site has signed, so that it may have been opened.

    Attributes:
        federation: the federation's name.
        run: the coordinator's run.
        purpose: what was summed.
        round: the round; of metrics, the version of the global model that they are of.
        layout: hash of the model's layout, hexadecimal.
        model: hash of the global model that was trained or measured, hexadecimal, see ``update.model_digest``.
        survivors: the sites in the sum, in ascending order.
    """

    federation: str
    run: str
    purpose: Purpose
    round: int
    layout: str
    model: str
    survivors: tuple[str, ...]


Keep = Callable[[SignedSum], None]
"""Called before a survivor set is signed: what the site must still know when it is started again. Raises if that cannot
be kept, and nothing is signed."""


class SignedSums:
    """The survivor sets that one site has signed.

    Rules, for a round of a run and for a global model alike:

    1. Only a survivor set that was signed before may be signed again, in whatever attempt, version, run or process.
    2. One exception: the process that has signed may go on with other sites under the *next* round's number from the
       same model, for it has trained anew. Else a round that the coordinator had to skip could never be followed by
       another. Metrics, which are the same each time, know no exception.
    3. Metrics of a model are summed among sites that this site has signed to be in the sum that made the model, and
       among exactly those that it has signed to be in the sum that says how many of them have each metric: among fewer,
       one of them could be the only one that has it.

    Args:
        federation: the federation's name.
        run: the coordinator's run.
        layout: hash of the model's layout, see ``update.model_digest.layout_digest``.
        earlier: what was signed before, by this process or another one.
        keep: writes down what is about to be signed; without it nothing outlives the process.
        min_change: by how many sites, counted in both directions, the sites of a sum must differ from those of each
            other sum of this layout for the same purpose, unless they are the same; 0 for any.
    """

    def __init__(
        self,
        federation: str,
        run: str,
        layout: bytes,
        earlier: Iterable[SignedSum] = (),
        keep: Keep | None = None,
        min_change: int = 0,
    ) -> None:
        self._federation = federation
        self._run = run
        self._layout = layout.hex()
        self._keep = keep
        self._min_change = min_change
        self._sets: dict[frozenset[str], frozenset[str]] = {}
        self._of_round: dict[tuple[Purpose, int], frozenset[str]] = {}
        self._of_model: dict[tuple[Purpose, str], set[frozenset[str]]] = {}
        self._of_layout: dict[Purpose, set[frozenset[str]]] = {}
        self._of_run: dict[tuple[Purpose, str], set[frozenset[str]]] = {}
        for signed in earlier:
            self._remember(signed)
        # What this process signs later is not in it: rule 2.
        self._before = frozenset(self._of_model)

    def may_have_opened(self, purpose: Purpose, round: int, model: bytes) -> bool:
        """Whether a sum of this round, or of another training from this model that is over, may have been opened."""
        return self._allowed(purpose, round, model.hex()) is not None

    def only(self, model: bytes) -> list[frozenset[str]] | None:
        """The survivor sets of this run one of which each sum of trainings from this model must be over.

        None if there may be others: no process before this one has signed any. What was signed in another run is not
        named, as it may have been another coordinator's.
        """
        bound: list[tuple[Purpose, str]] = [
            key for key in self._before if key[1] == model.hex() and key[0] not in REPORTED
        ]
        if not bound:
            return None
        sets = [self._of_run.get(key, set()) for key in bound]
        return sorted(set.intersection(*sets), key=sorted)

    def survivors(self, purpose: Purpose, round: int) -> frozenset[str] | None:
        """The survivor set that was signed of this sum of the run, None if none was."""
        return self._of_round.get((purpose, round))

    def check_sharers(self, purpose: Purpose, round: int, model: bytes, sharers: Iterable[str]) -> None:
        """Accept the sites among which this site would mask its vector, or raise; to be called before it does.

        Raises:
            ProtocolError: no survivor set among them could be signed, or not that of all of them.
        """
        sites = frozenset(sharers)
        allowed = self._allowed(purpose, round, model.hex())
        if allowed is None:
            self._check_change(purpose, sites)
        elif not any(survivors <= sites for survivors in allowed):
            raise _opened_before(purpose, round)
        self._check_participants(purpose, round, sites)

    def sign(self, purpose: Purpose, round: int, model: bytes, survivors: Iterable[str]) -> None:
        """Write a survivor set down; once this returns it may be signed.

        Raises:
            ProtocolError: another set was signed before, or the set is too near to an earlier one.
            StoreError: it could not be written down.
        """
        sites, digest = frozenset(survivors), model.hex()
        allowed = self._allowed(purpose, round, digest)
        if allowed is None:
            self._check_change(purpose, sites)
        elif sites not in allowed:
            raise _opened_before(purpose, round)
        self._check_participants(purpose, round, sites)
        self._check_counted(purpose, round, sites)
        if self._of_round.get((purpose, round)) == sites and sites in self._of_model.get((purpose, digest), ()):
            return  # in an attempt before
        signed = SignedSum(self._federation, self._run, purpose, round, self._layout, digest, tuple(sorted(sites)))
        if self._keep:
            self._keep(signed)
        self._remember(signed)

    def _allowed(self, purpose: Purpose, round: int, model: str) -> set[frozenset[str]] | None:
        """The survivor sets one of which it must be; None if it may be any."""
        of_round, of_model = self._of_round.get((purpose, round)), self._of_model.get((purpose, model))
        if purpose not in REPORTED and (purpose, model) not in self._before:
            of_model = None  # trained anew
        if of_round is None or of_model is None:
            return of_model if of_round is None else {of_round}
        return of_model & {of_round}

    def _check_change(self, purpose: Purpose, sites: frozenset[str]) -> None:
        for other in self._of_layout.get(purpose, ()):
            if 0 < len(sites ^ other) < self._min_change:
                # Who was in that one stays here: it may have been another federation's.
                raise ProtocolError(
                    f"a sum over {sorted(sites)} was asked for, whose sites differ from those of an earlier one by "
                    f"{len(sites ^ other)}: what those sent would show in the difference, and this site wants at least "
                    f"{self._min_change} (policy, min_cohort_change). It sits this sum out. Bring the missing sites "
                    "back, or leave out more."
                )

    def _check_participants(self, purpose: Purpose, round: int, sites: frozenset[str]) -> None:
        if purpose not in REPORTED:
            return
        participants = self._of_round.get(("update", round))
        if participants is None or not sites <= participants:
            known = "none that this site knows" if participants is None else str(sorted(participants))
            raise ProtocolError(
                f"metrics of global model {round} were asked for among {sorted(sites)}, and the sites whose sum made "
                f"that model are {known}. Only those report it. Nothing was sent."
            )

    def _check_counted(self, purpose: Purpose, round: int, sites: frozenset[str]) -> None:
        counted = self._of_round.get(("presence", round))
        if purpose == "metrics" and sites != counted:
            known = "never counted" if counted is None else f"counted among {sorted(counted)}"
            raise ProtocolError(
                f"metrics of global model {round} were asked for among {sorted(sites)}, and how many sites have them "
                f"was {known}: a metric could be one site's alone. Nothing is opened."
            )

    def _remember(self, signed: SignedSum) -> None:
        survivors, purpose = frozenset(signed.survivors), signed.purpose
        # Round after round the same sites: one set of them for thousands of rounds.
        survivors = self._sets.setdefault(survivors, survivors)
        if signed.run == self._run:
            self._of_round[purpose, signed.round] = survivors
            self._of_run.setdefault((purpose, signed.model), set()).add(survivors)
        self._of_model.setdefault((purpose, signed.model), set()).add(survivors)
        if signed.layout == self._layout:
            self._of_layout.setdefault(purpose, set()).add(survivors)


def _opened_before(purpose: Purpose, round: int) -> ProtocolError:
    if purpose in REPORTED:
        return ProtocolError(
            f"the sum of metrics of this global model, now announced as {round}, was opened before over other sites: "
            "a second one would show single sites' metrics, and is refused."
        )
    return ProtocolError(
        f"the sum of round {round}, or of another round from the same model, was opened before over other sites: a "
        f"second one would show single updates, and is refused. {_CURE}"
    )
