"""What belongs to the other one of Lightning's two packages and would not do its work in this fit."""

from lightning_fed.lightning_api import Callback, Trainer, package_of, package_of_module, serve, served_package


def refuse_mixed(trainer: Trainer) -> None:
    """Refuse a Trainer, or one of Lightning's own callbacks, of the package that this process is not served in.

    A callback that derives from ``Callback`` alone works in both, as a Trainer calls whatever it is given; Lightning's
    own are also looked for by their class (``ModelCheckpoint`` is called last, early stopping and averaged weights
    change what a round is), and would not be found.

    Raises:
        ConfigError: names it and what to do.
    """
    if package := package_of(type(trainer)):
        serve(package, "the Trainer of this fit")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for base in type(callback).__mro__:
            package = package_of_module(base.__module__)
            if package not in (None, served_package()) and base.__name__ != Callback.__name__:
                serve(str(package), f"the callback {type(callback).__name__} of this fit")
