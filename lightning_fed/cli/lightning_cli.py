"""Lightning's own CLI as this package uses it: any module and data module, named by class path."""

from typing import Any

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.errors import FederationError
from lightning_fed.lightning_api import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    LightningDataModule,
    LightningModule,
    Strategy,
)


class _Parser(NamesNearest, LightningArgumentParser):  # type: ignore[misc]
    """Lightning's parser, which names the key that is nearest to an unknown one."""


class _ClearErrors(LightningCLI):  # type: ignore[misc]
    def instantiate_classes(self) -> None:
        """Make what the config names.

        Raises:
            FederationError: the strategy cannot be made. The parser tries every type a strategy may be given as, and
                would bury the reason in a list of what the others had to say.
        """
        reasons: list[FederationError] = []

        def make(kind: type[Strategy], *args: Any, **kwargs: Any) -> Strategy:
            try:
                return kind(*args, **kwargs)
            except FederationError as error:
                reasons.append(error)
                raise

        self.parser.add_instantiator(make, Strategy, subclasses=True)
        try:
            super().instantiate_classes()
        except ValueError:
            if reasons:
                raise reasons[0] from None
            raise


class SiteCLI(_ClearErrors):
    """``lightning-fed fit|validate|test|predict``; takes every key that Lightning's CLI takes.

    Args:
        args: the command line from the command on; None for the process's own.
    """

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            # A site that is started again writes the same file again.
            save_config_kwargs={"overwrite": True},
            parser_class=_Parser,
            parser_kwargs={"prog": "lightning-fed"},
            args=args,
        )


class Modules(_ClearErrors):
    """What a config names, without a command that is run: ``.model``, ``.datamodule`` and ``.trainer``.

    Made by Lightning's CLI and not directly, because it records in the module's hyperparameters how it was made: so
    ``load_from_checkpoint`` and ``--ckpt_path`` work for modules with nested arguments too.

    Args:
        config: the sections of a site's config: ``model``, and where needed ``data``, ``trainer``, ``seed_everything``.
        check_only: look for mistakes in the config and make nothing.

    Raises:
        jsonargparse.ArgumentError: a key is misspelt, or a value does not fit.
    """

    def __init__(self, config: dict[str, Any], *, check_only: bool = False) -> None:
        self._check_only = check_only
        super().__init__(
            LightningModule,
            LightningDataModule if "data" in config else None,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=False,
            parser_class=_Parser,
            parser_kwargs={"exit_on_error": False},
            args=config,
            run=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Take the config as it is, whatever stands on this process's command line."""
        self.config = parser.parse_object(args)

    def instantiate_classes(self) -> None:
        """Make the modules and the trainer, if they are wanted."""
        if not self._check_only:
            super().instantiate_classes()
