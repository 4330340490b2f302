"""One study that comes to the same model whatever runs its sites, and whenever each of them was started."""

import msgspec
import yaml
from lightning import seed_everything
from safetensors.torch import load_file
from tiny_modules import InOrder, Tiny

from lightning_fed.plan import FederationPlan
from lightning_fed.simulation import VirtualSite, federate_in_process

ROUNDS = 5


def study(epochs=1):
    """Sections of a simulation's config; a round takes a while with many epochs."""
    return {
        "plan": {
            "rounds": ROUNDS,
            "gather_s": 240,
            "local": {"epochs": epochs},
            "metrics": ["val_loss"],
            # Masks round to multiples of a step, which 32 bits make small.
            "masking": {"bits": 32},
        },
        "data": {"class_path": "tiny_modules.InOrder", "init_args": {"site": "{site}"}},
        "model": {"class_path": "tiny_modules.Tiny", "init_args": {"lr": 0.1 / epochs}},
    }


def in_one_process(config):
    """The study's last global model where the sites take turns in this process."""
    settings = yaml.safe_load(config.read_text())
    sites = []
    for name in settings["sites"]:
        seed_everything(settings["seed"])
        sites.append(VirtualSite(name, Tiny(**settings["model"]["init_args"]), InOrder(name)))
    plan = msgspec.convert(settings["plan"], FederationPlan)
    federate_in_process(plan, sites, seed=settings["seed"], **settings["trainer"])
    return dict(sites[0].module.state_dict())


def stored(folder):
    """The last global model in a run's store."""
    return load_file(folder / "store" / "models" / f"{ROUNDS:06d}.safetensors")


def distance(model, other):
    """Largest difference of any two values of two models."""
    assert model.keys() == other.keys()
    return max((model[name] - other[name]).abs().max().item() for name in model)
