"""Error feedback: what makes up, in later rounds, for what a site did not send in this one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lightning_fed.errors import ModelMismatchError, ProtocolError
from lightning_fed.update.vectors import FloatVector, IndexVector


class ErrorFeedback:
    """The residual of one site, shape ``(P,)``, float32.

    A round has two steps, because a site learns only later whether its upload counted:

    1. ``total = with_residual(update)`` is what there is to send; ``propose(round, total, support, sent)`` notes what
       would stay behind.
    2. ``settle(round, counted=True)`` makes that the residual. ``counted=False``, or proposing again, leaves the
       residual as it was before the round: the update of a round that did not count is dropped, as without compression,
       and the residual is neither lost nor doubled. A site that skips rounds calls nothing.

    Exactness: where values are sent as float32, ``sent + residual == total`` bit for bit. Where they are quantised, the
    residual is ``total - sent`` in float32: bit for bit exact when ``sent`` is 0 or between half and twice the total
    (Sterbenz), and else within half a unit in the last place of the difference, at most 2^-24 of a quantisation step.

    Source: Stich, Cordonnier and Jaggi 2018, Sparsified SGD with Memory (arXiv 1809.07599), algorithm 1.
    """

    def __init__(self, size: int) -> None:
        self.residual: FloatVector = np.zeros(size, dtype=np.float32)
        self._proposed: FloatVector | None = None
        self._proposed_round = -1
        self._settled_round = -1

    @property
    def pending_round(self) -> int:
        """The round of a proposal that is not settled, 0 if there is none."""
        return 0 if self._proposed is None else self._proposed_round

    @property
    def settled(self) -> int:
        """The newest round that counted, 0 before the first."""
        return max(0, self._settled_round)

    def with_residual(self, update: FloatVector) -> FloatVector:
        """The update plus the residual, a new float32 vector, shape ``(P,)``; nothing changes yet.

        Raises:
            ModelMismatchError: the update has another size than the residual.
        """
        if update.shape != self.residual.shape:
            raise ModelMismatchError(
                f"an update of {update.size} values does not fit a residual of {self.residual.size}. "
                "The model changed: start the site without the old checkpoint."
            )
        return update + self.residual

    def propose(self, round_number: int, total: FloatVector, support: IndexVector, sent: FloatVector) -> None:
        """Note what stays behind if the upload counts; a new proposal for a round replaces the one before.

        Args:
            round_number: the round, later than every settled one.
            total: result of ``with_residual``, shape ``(P,)``; overwritten, it becomes the residual.
            support: coordinates sent, shape ``(k,)``.
            sent: values as the coordinator will decode them, float32, shape ``(k,)``.

        Raises:
            ProtocolError: the round has been settled before.
        """
        if round_number <= self._settled_round:
            raise ProtocolError(
                f"round {round_number} cannot change the residual again: round {self._settled_round} is settled."
            )
        total[support] -= sent
        self._proposed, self._proposed_round = self._kept(total, support, sent), round_number

    def _kept(self, unsent: FloatVector, support: IndexVector, sent: FloatVector) -> FloatVector:
        """The next residual; ``unsent`` is the total less what was sent."""
        return unsent

    @property
    def unsent_norm(self) -> float:
        """L2 norm of what the site has not sent so far."""
        return float(np.linalg.norm(self.residual))

    def settle(self, round_number: int, *, counted: bool) -> None:
        """Take over the proposal of a round if its upload is part of the sum, else forget it.

        A round without a proposal (the site skipped it, or it is settled already) changes nothing.
        """
        if self._proposed is None or round_number != self._proposed_round:
            return
        if counted:
            self.residual = self._proposed
            self._settled_round = round_number
        self._proposed = None

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, an unsettled proposal included: tensors of shape ``(P,)`` and integers."""
        state: dict[str, Any] = {
            "residual": torch.from_numpy(self.residual.copy()),
            "settled_round": self._settled_round,
            "proposed_round": self._proposed_round,
        }
        if self._proposed is not None:
            state["proposed"] = torch.from_numpy(self._proposed.copy())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state.

        Raises:
            ModelMismatchError: the state is that of another model.
        """
        for name in ("residual", "proposed"):
            vector = state.get(name)
            if vector is not None and tuple(vector.shape) != self.residual.shape:
                raise ModelMismatchError(
                    f"the checkpoint's {name} has shape {tuple(vector.shape)}, the model needs {self.residual.shape}. "
                    "Start the site without the old checkpoint."
                )
        self.residual = state["residual"].to(torch.float32).cpu().numpy().copy()
        proposed = state.get("proposed")
        self._proposed = None if proposed is None else proposed.to(torch.float32).cpu().numpy().copy()
        self._proposed_round = int(state["proposed_round"])
        self._settled_round = int(state["settled_round"])


class EF21(ErrorFeedback):
    """The residual is what the coordinator counts for the site already, with its sign turned.

    So the total is what the update differs from that by. Once k coordinates of it were sent, the coordinator counts
    those anew and the others as before. It moves the model by the mean of all that it counts, see
    ``aggregation.ef21``: a coordinate that is not sent goes on as it went. With a residual it stands still until it is
    sent, and then jumps.

    Source: Richtárik, Sokolov and Fatkhullin 2021, EF21: A New, Simpler, Theoretically Better, and Practically Faster
    Error Feedback (arXiv 2106.05203), algorithm 2; of sites that skip rounds, Fatkhullin et al. 2021, EF21 with Bells &
    Whistles (arXiv 2110.03294), algorithm 4.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._unsent_norm = 0.0

    def _kept(self, unsent: FloatVector, support: IndexVector, sent: FloatVector) -> FloatVector:
        self._unsent_norm = float(np.linalg.norm(unsent))
        kept = self.residual.copy()
        kept[support] -= sent
        return kept

    @property
    def unsent_norm(self) -> float:
        """L2 norm of what the last update, as the coordinator counts it, still lacks."""
        return self._unsent_norm
