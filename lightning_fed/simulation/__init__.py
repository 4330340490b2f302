"""Whole federations of one person: in one process for studies, or with real processes, on one machine or several."""

from typing import TYPE_CHECKING

from lightning_fed.deferred import deferred

if TYPE_CHECKING:
    from lightning_fed.simulation.config import Baselines, OnRay, Simulation, SiteOverrides
    from lightning_fed.simulation.counting import count_in_process, evaluate_in_process
    from lightning_fed.simulation.in_process import InProcessRun, VirtualSite, federate_in_process
    from lightning_fed.simulation.study import simulate
else:
    __getattr__ = deferred(
        __name__,
        {
            "counting": ("count_in_process", "evaluate_in_process"),
            "in_process": ("InProcessRun", "VirtualSite", "federate_in_process"),
        },
        without_lightning={"config": ("Baselines", "OnRay", "Simulation", "SiteOverrides"), "study": ("simulate",)},
    )

__all__ = [
    "Baselines",
    "InProcessRun",
    "OnRay",
    "Simulation",
    "SiteOverrides",
    "VirtualSite",
    "count_in_process",
    "evaluate_in_process",
    "federate_in_process",
    "simulate",
]
