"""pfl-research in one process for the table: users of a small CNN, some of whom train each round.

As its documentation recommends for one machine: the simulated backend in one process without a cluster, no evaluation
in between, and all users' data in memory.
"""

import argparse
from pathlib import Path

import torch
from marks import mark
from models import BATCH, LEARNING_RATE, Vector, examples, small_cnn
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn


class Module(nn.Module):
    """The small CNN or a vector, with the loss and the metrics that pfl-research asks for."""

    def __init__(self, params: int | None) -> None:
        super().__init__()
        self.net = small_cnn() if params is None else Vector(params)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the classes."""
        return self.net(images)

    def loss(self, images: Tensor, classes: Tensor, eval: bool = False) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(images), classes)

    def metrics(self, images: Tensor, classes: Tensor, eval: bool = True) -> dict[str, Weighted]:
        """None that cost anything."""
        return {"loss": Weighted(0.0, 1)}


class Marks(TrainingProcessCallback):
    """Marks each round's end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Mark, and go on."""
        mark(self._folder, "rounds")
        return False, Metrics()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params", type=int, help="a vector without training, instead of the small CNN with it")
    parser.add_argument("--cohort", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="beside two that are not counted")
    parser.add_argument("--marks", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = list(examples())
    users = FederatedDataset(
        lambda _: Dataset(raw_data=data), get_user_sampler("random", [str(index) for index in range(options.sites)])
    )
    module = Module(options.params)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), 1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=options.rounds + 2,
            evaluation_frequency=options.rounds + 3,
            train_cohort_size=options.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=users, val_data=None),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=LEARNING_RATE, local_num_epochs=0 if options.params else 1, local_batch_size=BATCH
        ),
        model_eval_params=None,
        callbacks=[Marks(options.marks)],
    )


if __name__ == "__main__":
    main()
