"""Whole federations on one machine: in one process for studies, or with real processes from one configuration."""

from lightning_fed.simulation.config import Baselines, Simulation, SiteOverrides
from lightning_fed.simulation.in_process import InProcessRun, VirtualSite, federate_in_process
from lightning_fed.simulation.simulate import simulate

__all__ = [
    "Baselines",
    "InProcessRun",
    "Simulation",
    "SiteOverrides",
    "VirtualSite",
    "federate_in_process",
    "simulate",
]
