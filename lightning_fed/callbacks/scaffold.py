"""SCAFFOLD at a site."""

from lightning_fed.callbacks.round_callback import RoundCallback


class Scaffold(RoundCallback):
    """Placeholder until the merge."""
