"""What a site's policy says of its own model and data, which no plan shows."""

import difflib
import fnmatch
import math

from torch import nn

from lightning_fed.errors import FederationError
from lightning_fed.lightning_api import LightningModule, Trainer, is_overridden, rank_zero_warn
from lightning_fed.plan import FederationPlan, LocalTraining
from lightning_fed.policy import Leaving, SitePolicy
from lightning_fed.update.aliases import aliases
from lightning_fed.update.layout import Layout, layout_of


def leaving_now(module: LightningModule, plan: FederationPlan) -> Leaving:
    """The tensors of a model that would leave under a plan, as far as that can be told before the fit is set up."""
    # A plan that replaces layers puts others there, whose names nobody knows yet.
    if plan.privacy.example and plan.privacy.example.replace_layers:
        return Leaving()
    try:
        exchanged = layout_of(module, plan.personal).exchanged
    except FederationError:
        # Layers have no shape yet, or the plan's patterns fit none. If that stays so, the fit ends with it.
        return Leaving()
    whole = not any(is_overridden(hook, module, LightningModule) for hook in ("setup", "configure_model"))
    return Leaving(aliases(module, [spec.name for spec in exchanged]), whole)


def check_policy(policy: SitePolicy, module: nn.Module, layout: Layout, site: str) -> None:
    """Refuse a model of which something would be exchanged that never leaves; warn where a pattern names nothing.

    Frozen tensors are not exchanged; they leave only as part of an initial model, which is checked for itself.

    Raises:
        PlanRefusedError: lists the tensors and the patterns.
    """
    if not policy.never_leaves:
        return
    policy.check_names(aliases(module, [spec.name for spec in layout.exchanged]), site)
    everything = aliases(module, [name for name, _ in module.named_parameters(remove_duplicate=False)])
    everything |= aliases(module, [name for name, _ in module.named_buffers(remove_duplicate=False)])
    names = {name for known_as in everything.values() for name in known_as}
    for pattern in policy.never_leaves:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
            rank_zero_warn(
                f"no tensor of the model is named like {pattern!r} (policy, never_leaves), so the line keeps nothing "
                f"at this site; names near it are {near}."
            )


def steps_of_a_round(trainer: Trainer, local: LocalTraining) -> float:
    """Optimiser steps of a round at this site, counted once however many optimisers there are; once data are loaded.

    Infinite where a data set does not know its size.
    """
    return steps_of(local, float(trainer.num_training_batches), trainer.accumulate_grad_batches)


def steps_of(local: LocalTraining, batches: float, accumulated: int) -> float:
    """As ``steps_of_a_round``, with so many batches an epoch, of which so many are accumulated for a step."""
    if local.steps:
        return local.steps
    return batches if math.isinf(batches) else (local.epochs or 1) * math.ceil(batches / accumulated)
