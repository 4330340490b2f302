"""Checks that every rule makes: on the plan's numbers, on vectors, and on saved state."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_fed.aggregation.contracts import RuleState
from lightning_fed.errors import ModelMismatchError, PlanError, StoreError, UpdateRefusedError

LARGEST_SETTING = 1e15
"""Largest value of a setting; rules square some of them, and the square must fit float32."""


def check_positive(setting: str, value: float) -> None:
    """Raise ``PlanError`` unless ``value`` is above zero and at most ``LARGEST_SETTING``."""
    if not 0.0 < value <= LARGEST_SETTING:
        raise PlanError(
            f"plan.algorithm.{setting} = {value} must be above 0 and at most {LARGEST_SETTING:.0e}. "
            "Change it in the plan."
        )


def check_fraction(setting: str, value: float) -> None:
    """Raise ``PlanError`` unless ``value`` is at least 0 and below 1."""
    if not 0.0 <= value < 1.0:
        raise PlanError(f"plan.algorithm.{setting} = {value} must be at least 0 and below 1. Change it in the plan.")


def check_at_least(setting: str, value: float, limit: float) -> None:
    """Raise ``PlanError`` unless ``value`` is finite and at least ``limit``."""
    if not (math.isfinite(value) and value >= limit):
        raise PlanError(
            f"plan.algorithm.{setting} = {value} must be a finite number of at least {limit}. Change it in the plan."
        )


def check_sites_for(algorithm: str, hostile: int, needed: int, sites: int) -> None:
    """Raise ``PlanError`` unless there are as many updates as the rule needs to withstand ``hostile`` of them."""
    if sites < needed:
        raise PlanError(
            f"{algorithm} needs at least {needed} updates to withstand hostile = {hostile}, but a round may have "
            f"{sites}. Raise plan.quorum or lower plan.algorithm.hostile."
        )


def check_vectors(size: int, model: Tensor, mean_update: Tensor) -> None:
    """Check a model and its mean update, both flat float32, shape ``(size,)``.

    Raises:
        ModelMismatchError: another shape or dtype.
        UpdateRefusedError: the update holds a NaN or an infinity.
    """
    for what, vector in (("the model", model), ("the mean update", mean_update)):
        if vector.shape != (size,) or vector.dtype != torch.float32:
            raise ModelMismatchError(
                f"{what} is {vector.dtype} of shape {list(vector.shape)}, but the rule was built for float32 of shape "
                f"[{size}]. Build the rule from the layout of this model."
            )
    if not _all_finite(mean_update):
        raise UpdateRefusedError(
            "the mean update holds a NaN or infinite value. Refuse the update it came from and repeat the round."
        )


def _all_finite(vector: Tensor) -> bool:
    # A NaN is both the least and the greatest. A norm in float64 would first make a copy of twice the size.
    return vector.numel() == 0 or all(math.isfinite(extreme) for extreme in torch.aminmax(vector))


def check_state(
    state: Mapping[str, Tensor | float], vectors: tuple[str, ...], numbers: tuple[str, ...], size: int
) -> None:
    """Check a saved state: exactly these names, vectors finite float32 of shape ``(size,)``, numbers finite.

    Raises:
        StoreError: names the entry that differs.
    """
    if set(state) != {*vectors, *numbers}:
        raise StoreError(
            f"the server rule's saved state holds {sorted(state)}, but this rule's is {sorted((*vectors, *numbers))}. "
            "Continue the run with the plan it was started with."
        )
    for name in vectors:
        value = state[name]
        if not isinstance(value, Tensor) or value.shape != (size,) or value.dtype != torch.float32:
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise StoreError(
                f"the server rule's saved {name!r} is {found}, but this model needs float32 [{size}]. "
                "Continue the run with the model it was started with."
            )
        if not _all_finite(value):
            raise StoreError(
                f"the server rule's saved {name!r} holds a NaN or infinite value. Restore an earlier round."
            )
    for name in numbers:
        value = state[name]
        if isinstance(value, Tensor) or not math.isfinite(value):
            raise StoreError(f"the server rule's saved {name!r} is not a finite number. Restore an earlier round.")


def check_no_state(state: Mapping[str, Tensor | float]) -> RuleState:
    """The empty state of a rule without memory.

    Raises:
        StoreError: ``state`` is not empty.
    """
    check_state(state, (), (), 0)
    return {}


def check_stack(updates: Tensor) -> None:
    """Check the shape and dtype of a stack of updates, float32, shape ``(n, P)``.

    Raises:
        ModelMismatchError: another shape or dtype, or no update at all.
    """
    if updates.ndim != 2 or updates.shape[0] == 0 or updates.dtype != torch.float32:
        raise ModelMismatchError(
            f"the stack of updates is {updates.dtype} of shape {list(updates.shape)}; it must be float32 of shape "
            "(n, P) with n of at least 1. Stack the sites' flat updates row by row."
        )
