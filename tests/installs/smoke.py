"""What an installed package must do: real processes, masks, DP-SGD, compression, DICOM. Run in an empty folder."""

import subprocess
import sys
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_fed
from lightning_fed.plan import Compression, FederationPlan
from lightning_fed.radiology import RadiographDataModule
from lightning_fed.simulation import VirtualSite, federate_in_process


class Plane(L.LightningModule):
    """A linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 2)
        self.scale = nn.Parameter(torch.ones(64), requires_grad=False)  # frozen: sent once, and watched

    def training_step(self, batch, batch_idx):
        features, label = batch
        return nn.functional.cross_entropy(self.net(self.scale * features), label)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def command(*words: str, folder: str = ".") -> None:
    subprocess.run(words, check=True, cwd=folder)


def main() -> None:
    assert Path(lightning_fed.__file__).is_relative_to(Path(sys.prefix)), "this is not the installed package"
    command("lightning-fed", "--version")
    command("lightning-fed", "completion", "bash")
    command("lightning-fed", "init", "--role", "simulation", "--folder", "first")
    command("lightning-fed", "simulate", "--config", "simulation.yaml", folder="first")
    private = "{example: {epsilon: 8, delta: 1.0e-3}}"
    words = ("simulate", "--config", "simulation.yaml", "--plan.privacy", private, "--run", "runs/private")
    command("lightning-fed", *words, folder="first")
    command("lightning-fed", "report", "runs/private/store", folder="first")

    for algorithm in ({"name": "scaffold"}, {"name": "fedadam"}):
        compression = Compression("vote", share=0.2, block=4) if algorithm["name"] == "fedadam" else Compression()
        plan = FederationPlan(rounds=2, quorum=3, algorithm=algorithm, compression=compression)
        sites = []
        for index in range(3):
            torch.manual_seed(0)
            features = torch.randn(32, 64)
            data = TensorDataset(features, (features.sum(1) > 0).long())
            sites.append(VirtualSite(f"site-{index}", Plane(), DataLoader(data, batch_size=8)))
        assert federate_in_process(plan, sites).model.version == 2

    command(sys.executable, "-m", "lightning_fed.radiology.synthetic", "wrists", "--images-per-site", "8")
    site = sorted(path for path in Path("wrists").iterdir() if path.is_dir())[0]
    module = RadiographDataModule(root=site, batch_size=2)
    module.prepare_data()
    module.setup("fit")
    images = next(iter(module.train_dataloader()))["image"]
    assert torch.isfinite(torch.as_tensor(images)).all()
    print("all right")


if __name__ == "__main__":
    main()
