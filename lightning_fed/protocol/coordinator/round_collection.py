"""What gathers the updates of one attempt, in whichever way the plan has it."""

from lightning_fed.protocol.coordinator.buffered_collection import BufferedCollection
from lightning_fed.protocol.coordinator.collection import Collection
from lightning_fed.protocol.coordinator.masked_cohorts import MaskedCohorts
from lightning_fed.protocol.coordinator.masked_collection import MaskedCollection

RoundCollection = Collection | MaskedCollection | BufferedCollection | MaskedCohorts
"""An attempt at a round in the clear, at one under masks, or at a version of asynchronous rounds, likewise."""
