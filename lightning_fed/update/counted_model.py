"""What is exchanged in the place of a model where sites count and train nothing."""

import torch

from lightning_fed.plan.evaluation import Evaluation
from lightning_fed.plan.statistics import Statistics
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec
from lightning_fed.update.tally import DIGITS, NAME


def layout_of_counted(counted: Statistics | Evaluation) -> Layout:
    """What is exchanged in the place of a model."""
    return Layout((TensorSpec(NAME, (counted.numbers, DIGITS), "float32"),))


def nothing_counted(counted: Statistics | Evaluation) -> GlobalModel:
    """What the coordinator begins with, in the place of an initial model."""
    layout = layout_of_counted(counted)
    return GlobalModel.from_state({NAME: torch.zeros(layout.exchanged[0].shape)}, layout)
