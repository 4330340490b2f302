"""A user's script, which Lightning runs once for each device: ``script.py SETTINGS FOLDER``, as JSON and a path."""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from several import fit


class Pid(L.Callback):
    """Says which process is which."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        whole = self._folder / f".pid-{trainer.global_rank}"
        whole.write_text(str(os.getpid()))
        whole.rename(self._folder / f"pid-{trainer.global_rank}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    fit({"start_method": "popen", **json.loads(sys.argv[1])}, folder, callbacks=lambda: [Pid(folder)])
    print("the script goes on")
