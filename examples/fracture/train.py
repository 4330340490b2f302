"""One hospital's training script: plain Lightning but for the strategy.

From the repository's root, with a coordinator at the address below and the study of
``python -m lightning_fed.radiology.synthetic data/wrists``:

    python -m examples.fracture.train
"""

from lightning.pytorch import Trainer, seed_everything

from examples.fracture import FractureClassifier
from lightning_fed import FederatedStrategy
from lightning_fed.radiology import RadiographDataModule


def main() -> None:
    seed_everything(0)
    model = FractureClassifier()
    data = RadiographDataModule("data/wrists/north", batch_size=8, val_fraction=0.1, test_fraction=0.3)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        strategy=FederatedStrategy("tcp://127.0.0.1:5790", site="north"),
    )
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data)


if __name__ == "__main__":
    main()
