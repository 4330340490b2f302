"""EF21 at the coordinator: the model is moved by all that is known of the sites' updates, old values and new ones.

Richtárik, Sokolov and Fatkhullin 2021, EF21 (arXiv 2106.05203), algorithm 2. Each site sends a part of the difference
between its update and what is known of it (``update.error_feedback.EF21``). What is known of all sites together grows
by those parts, whose sum works under masking. Nothing of a single site is kept.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_state, check_vectors
from lightning_fed.aggregation.contracts import RuleState, ServerRule

KNOWN = "known"
"""Name of the sum in the server's state."""


class KnownMean:
    """Gives another rule the mean of all that is known of the sites' updates.

    Args:
        rule: moves the model.
        size: number of values P.
        members: number of sites of the federation.

    Each site must count alike in the mean update: what a site sends later is a difference to what is known of it, and
    the two are added up only if both have one weight.

    Attributes:
        members: may change between rounds. The sum over sites is kept and not its mean, so that what is known of each
            site still counts as what it sends later.
        counted: number of sites of which anything is known, those of the update to come included; all members if not
            set. A site that never came is not in the sum, and one that was removed still is.
    """

    def __init__(self, rule: ServerRule, size: int, members: int) -> None:
        self.members = self.counted = members
        self._rule = rule
        self._known = torch.zeros(size)

    def apply(self, model: Tensor, mean_update: Tensor, share: float = 1.0) -> Tensor:
        """See ``ServerRule.apply``; of a site that took no part the same is known as before."""
        check_vectors(self._known.numel(), model, mean_update)
        self._known = torch.add(self._known, mean_update, alpha=share * self.members)
        return self._rule.apply(model, self._known / self.counted, share)

    def state_dict(self) -> RuleState:
        """What is known, and the other rule's state."""
        return {KNOWN: self._known.clone(), **self._rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor | float]) -> None:
        """See ``ServerRule.load_state_dict``."""
        known = state.get(KNOWN, torch.zeros(self._known.numel()))  # a first round that was skipped leaves none
        check_state({KNOWN: known}, (KNOWN,), (), self._known.numel())
        self._rule.load_state_dict({name: value for name, value in state.items() if name != KNOWN})
        assert isinstance(known, Tensor)
        self._known = known.clone()
