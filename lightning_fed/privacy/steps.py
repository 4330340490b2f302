"""The steps of DP-SGD that a site has taken, by their settings."""

from typing import Any

from lightning_fed.privacy.accounting import DpSgd, epsilon


class Steps:
    """Counts steps; those of a resumed training may have other sampling rates or noise than the ones after it."""

    def __init__(self) -> None:
        self._taken: dict[tuple[float, float], int] = {}
        self._untold: dict[tuple[float, float], int] = {}

    @property
    def count(self) -> int:
        """Number of all steps."""
        return sum(self._taken.values())

    @property
    def last_noise(self) -> float | None:
        """Noise multiplier of the last new setting; None before the first step."""
        return list(self._taken)[-1][1] if self._taken else None

    def add(self, sample_rate: float, noise_multiplier: float) -> None:
        """Count one step."""
        for counts in (self._taken, self._untold):
            setting = (sample_rate, noise_multiplier)
            counts[setting] = counts.get(setting, 0) + 1

    def epsilon(self, delta: float, *more: DpSgd) -> float:
        """Epsilon of all steps, and of ``more``; 0 if there are none.

        The settings follow from the plan and the number of examples, so the schedule counts as fixed: it is not chosen
        by what was released.
        """
        mechanisms = [*(DpSgd(*setting, count) for setting, count in self._taken.items()), *more]
        return epsilon(mechanisms, delta) if mechanisms else 0.0

    def tell(self) -> DpSgd | None:
        """The mechanism of the steps since this was last called; None if there were none.

        Should their settings differ, all count at the highest sampling rate and the lowest noise among them.
        """
        if not self._untold:
            return None
        rates, noises = zip(*self._untold, strict=True)
        mechanism = DpSgd(max(rates), min(noises), sum(self._untold.values()))
        self._untold = {}
        return mechanism

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {name: [[*setting, count] for setting, count in counts.items()] for name, counts in self._counts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        for name, counts in self._counts():
            counts.clear()
            counts.update({(rate, noise): count for rate, noise, count in state[name]})

    def _counts(self) -> tuple[tuple[str, dict[tuple[float, float], int]], ...]:
        return ("taken", self._taken), ("untold", self._untold)
