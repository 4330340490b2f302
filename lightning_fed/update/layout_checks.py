"""Whether a layout can be a federation's, and whether a site's is the same."""

import itertools

import torch

from lightning_fed.errors import ModelMismatchError
from lightning_fed.update.aliases import plain
from lightning_fed.update.layout import LARGEST_MODEL, Layout

_COMPILED = (
    "They are the same but for a layer that is compiled or parametrised on one side alone, which gives its tensors "
    "other names. Compile it nowhere or everywhere, in place (layer.compile()), or as a whole "
    "(trainer.fit(torch.compile(module))): these keep the names."
)

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def check_sound(layout: Layout) -> None:
    """Check a layout that came from outside and is about to become the federation's.

    Raises:
        ModelMismatchError: an unknown dtype, an impossible shape, a name that occurs twice, or nothing to exchange.
    """
    specs = (*layout.exchanged, *layout.frozen, *layout.constants)
    names = [spec.name for spec in specs] + [name for name, _ in layout.tied] + [*layout.personal]
    if len(set(names)) != len(names) or not {first for _, first in layout.tied} <= {spec.name for spec in specs}:
        raise ModelMismatchError("the model's layout names a tensor twice, or ties one to a tensor that is not there.")
    for index, spec in enumerate(specs):
        dtype, sent_once = _DTYPES.get(spec.dtype), index >= len(layout.exchanged)
        exchangeable = dtype is not None and (dtype.is_floating_point or sent_once)
        constant = index >= len(layout.exchanged) + len(layout.frozen)
        if not exchangeable or (sent_once and spec.buffer != constant) or min(spec.shape, default=0) < 0:
            raise ModelMismatchError(f"the model's layout holds an impossible tensor: {spec}.")
    values = sum(spec.size for spec in specs)
    if layout.size < 1 or values > LARGEST_MODEL:
        raise ModelMismatchError(
            f"the model has {layout.size} values to exchange and {values} in all; at least 1 and at most "
            f"{LARGEST_MODEL} are possible."
        )


def check_same_layout(expected: Layout, got: Layout, site: str) -> None:
    """Compare a site's layout with the federation's, but for what is a site's own.

    Raises:
        ModelMismatchError: names what is frozen on one side alone, or the first tensor that differs, with both shapes
            and dtypes.
    """
    _check_same_frozen(expected, got, site)
    for kind in ("exchanged", "frozen"):
        ours, theirs = getattr(expected, kind), getattr(got, kind)
        for index in range(max(len(ours), len(theirs))):
            a = ours[index] if index < len(ours) else None
            b = theirs[index] if index < len(theirs) else None
            if a != b:
                compiled = a is not None and b is not None and a.name != b.name and plain(a.name) == plain(b.name)
                raise ModelMismatchError(
                    f"site {site!r} has another model than the federation: {kind} tensor number {index + 1} is "
                    f"{b or 'missing'} at the site and {a or 'missing'} in the federation. "
                    + (_COMPILED if compiled else "Give the site the same LightningModule with the same arguments.")
                )
    for ours, theirs in itertools.zip_longest(expected.tied, got.tied):
        if ours != theirs:
            raise ModelMismatchError(
                f"site {site!r} ties other weights together than the federation: {theirs or 'no further ones'} at the "
                f"site and {ours or 'no further ones'} in the federation. Give the site the same LightningModule with "
                "the same arguments."
            )


def _check_same_frozen(expected: Layout, got: Layout, site: str) -> None:
    """Sides that differ in what is frozen alone would else be told of two tensors that have nothing to do with it."""
    theirs, ours = ({spec.name for spec in layout.exchanged} for layout in (got, expected))
    at_site, there = ([spec.name for spec in layout.frozen] for layout in (got, expected))
    if theirs.union(at_site) != ours.union(there):
        return
    only_site, only_there = sorted(ours.intersection(at_site)), sorted(theirs.intersection(there))
    told = [
        f"{names[:3]} ({len(names)} in all) {'is' if len(names) == 1 else 'are'} frozen {where}"
        for names, where in (
            (only_site, "at the site and trained in the federation"),
            (only_there, "in the federation and trained at the site"),
        )
        if names
    ]
    if told:
        raise ModelMismatchError(
            f"site {site!r} freezes other parameters than the federation: {', and '.join(told)}. Freeze "
            "(requires_grad_(False)) the same ones at every site and in the model that the coordinator starts from "
            "(model: in its config), before trainer.fit."
        )
