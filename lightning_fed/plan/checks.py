"""The checks that every part of a plan makes."""

import math

from lightning_fed.errors import PlanError


def at_least(name: str, value: float, limit: float) -> None:
    """Raise ``PlanError`` unless the plan's setting is finite and at least ``limit``."""
    if not math.isfinite(value) or value < limit:
        raise PlanError(f"plan.{name} = {value} must be a finite number of at least {limit}. Change it in the plan.")


def above_zero(name: str, value: float) -> None:
    """Raise ``PlanError`` unless the plan's setting is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise PlanError(f"plan.{name} = {value} must be a finite number above 0. Change it in the plan.")


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ``PlanError`` unless the plan's setting is one of the words known."""
    if value not in known:
        raise PlanError(f"plan.{name} = {value!r} must be one of {', '.join(map(repr, known))}. Change it in the plan.")
