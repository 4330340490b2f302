"""A SIGTERM to a site of several processes: all of them stop at the same batch.

Lightning has each process stop when it has caught the signal itself, and from 2.6 on broadcasts from inside the signal
handler, which may stand between any two collectives: the processes then wait for each other. Here the handler only
notes the signal, and after each batch all processes hear whether one of them has.
"""

from typing import Any

from lightning_fed.lightning_api import SIGTERMException, Trainer


class AgreedSigterm:
    """Stands in for Lightning's own handler during a fit on several devices; on one device Lightning's is right.

    Args:
        trainer: whose fit it is.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._noted = False
        if trainer.world_size > 1:
            trainer._signal_connector._sigterm_notifier_fn = self._note  # type: ignore[method-assign, assignment]

    def _note(self, signum: Any, frame: Any) -> None:
        self._noted = True

    def noted(self) -> bool:
        """Whether this process has caught the signal."""
        return self._noted

    def heed(self) -> None:
        """Stop waiting for the coordinator; called in the first process, whose errors all others hear.

        Raises:
            SIGTERMException: the signal was caught.
        """
        # Lightning looks at its own flag between batches only.
        if self._noted or self._trainer.received_sigterm:
            raise SIGTERMException

    def agree(self) -> None:
        """After a batch: have Lightning stop all processes if one of them has caught the signal."""
        if self._trainer.world_size > 1 and self._trainer.strategy.reduce_boolean_decision(self._noted, all=False):
            self._trainer._signal_connector.received_sigterm = True

    def give_back(self) -> None:
        """Leave the Trainer its own handler."""
        self._trainer._signal_connector.__dict__.pop("_sigterm_notifier_fn", None)
