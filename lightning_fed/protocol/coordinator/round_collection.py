"""What gathers the updates of one attempt, in whichever way the plan has it."""

from collections.abc import Callable

from lightning_fed.protocol.coordinator.buffered_collection import BufferedCollection
from lightning_fed.protocol.coordinator.collection import Collection
from lightning_fed.protocol.coordinator.handout import Handout
from lightning_fed.protocol.coordinator.lasting_handout import LastingHandout
from lightning_fed.protocol.coordinator.masked_cohorts import MaskedCohorts
from lightning_fed.protocol.coordinator.masked_collection import MaskedCollection
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.members import Members
from lightning_fed.update.global_model import GlobalModel

RoundCollection = Collection | MaskedCollection | BufferedCollection | MaskedCohorts
"""An attempt at a round in the clear, at one under masks, or at a version of asynchronous rounds, likewise."""


def new_collection(
    exchange: Exchange,
    run: str,
    model: GlobalModel,
    handout: Handout,
    attempt: int,
    number: Callable[[], int],
    roster: Members,
    cohort: frozenset[str],
    before: RoundCollection | None,
) -> RoundCollection:
    """The collection that the plan asks for.

    Args:
        exchange: what the plan makes of updates.
        run: the coordinator's run.
        model: the newest global model.
        handout: what sites have of it.
        attempt: later than every attempt before.
        number: gives each cohort of an asynchronous version an attempt of its own, later than every one before.
        roster: all sites of the federation.
        cohort: the sites that are asked to train.
        before: the collection before, if this one follows it at once.
    """
    if not exchange.masked:
        if not exchange.buffered:
            return Collection(exchange, model, attempt, cohort)
        last = before if isinstance(before, BufferedCollection) else None
        return BufferedCollection(exchange, model, attempt, cohort, last)
    if not isinstance(handout, LastingHandout):
        return MaskedCollection(exchange, run, model, handout.digest, attempt, roster, cohort)
    opened = before if isinstance(before, MaskedCohorts) else None
    return MaskedCohorts(exchange, run, model, handout.digest, attempt, number, roster, cohort, handout.trained, opened)
