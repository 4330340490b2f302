"""How a round's mean update moves the global model."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lightning_fed.aggregation.contracts import RuleState
from lightning_fed.aggregation.ef21 import KnownMean
from lightning_fed.aggregation.scaffold import next_server_control
from lightning_fed.errors import UpdateRefusedError
from lightning_fed.protocol.coordinator.round_result import RoundResult
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.update.global_model import CONTROL, GlobalModel
from lightning_fed.update.layout import check_finite


class ServerStep:
    """The server's rule with its memory, which is stored with every global model.

    Args:
        exchange: what the plan makes of updates.
        model: the newest global model, whose state the rule goes on from.

    Raises:
        StoreError: the stored state is of another rule.
    """

    def __init__(self, exchange: Exchange, model: GlobalModel) -> None:
        self._exchange = exchange
        self._rule = exchange.aggregation.server
        if model.version:
            self._rule.load_state_dict({name: value for name, value in model.server.items() if name != CONTROL})

    def admit(self, exchange: Exchange) -> None:
        """Go on with another number of members; the rule keeps its memory."""
        self._exchange = exchange
        if isinstance(self._rule, KnownMean):
            self._rule.members = exchange.members

    def first(self, model: GlobalModel) -> GlobalModel:
        """The initial model with what the algorithm hands out beside it."""
        if self._exchange.parts == 1 or model.control is not None:
            return model
        return replace(model, server={CONTROL: torch.zeros(model.layout.size)})

    def next(self, model: GlobalModel, result: RoundResult, participants: Sequence[str]) -> GlobalModel:
        """The global model after a round over these sites.

        Raises:
            UpdateRefusedError: the sum cannot be a global model; the rule remembers nothing of it.
        """
        size, before = model.layout.size, self._rule.state_dict()
        if isinstance(self._rule, KnownMean):
            self._rule.counted = len(model.counted.keys() | set(participants))
        try:
            vector = self._rule.apply(model.vector, result.mean[:size], len(participants) / self._exchange.members)
            check_finite(vector, model.layout)
            server = self._rule.state_dict()
            if model.control is not None:
                changes = result.mean[size:] * float(len(participants))
                server[CONTROL] = next_server_control(model.control, changes, self._exchange.members)
            _check_memory(server)
        except UpdateRefusedError:
            self._rule.load_state_dict(before)
            raise
        following = replace(model.next(vector), bounds=result.next_bounds or model.bounds, server=server)
        if not self._exchange.settles:
            return following
        trained = result.trained or dict.fromkeys(participants, following.version)
        return replace(following, counted={**model.counted, **trained})


def _check_memory(state: RuleState) -> None:
    for name, value in state.items():
        if not bool(torch.as_tensor(value).isfinite().all()):
            raise UpdateRefusedError(
                f"the server's {name} would hold a NaN or an infinity, which no later round could mend: an update "
                "was far too large."
            )
