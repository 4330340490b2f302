"""What a site's config says of the federation, read without making anything that it names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_fed.errors import ConfigError
from lightning_fed.transport.identity import key_file_of
from lightning_fed.yaml_words import quoted, words


@dataclass(frozen=True)
class SiteSettings:
    """A site's config.

    Attributes:
        config: all of it.
        coordinator: address.
        site: the site's name.
        identity: its key file.
        identity_from: the setting that has named it, for messages.
        roster: the roster file.
        policy: the policy file, or what stands in its place in the config; None without one.
        ledger: file of the site's privacy ledger.
        data_set: name of the data that the ledger is about; any when empty.
        passphrase_file: holds the passphrase of a locked key file; None where the environment says it.
    """

    config: Mapping[str, Any]
    coordinator: str
    site: str
    identity: Path
    identity_from: str
    roster: Path
    policy: Path | Mapping[str, Any] | None
    ledger: Path
    data_set: str
    passphrase_file: Path | None


def mapping_in(path: Path, *, as_text: bool = False) -> dict[str, Any]:
    """What a config file holds, with none of its classes imported.

    Args:
        path: the file.
        as_text: whether words such as ``off`` stay words; see ``yaml_words``.

    Raises:
        ConfigError: it cannot be read, or has no keys.
    """
    try:
        document = path.read_text(encoding="utf-8")
        config = yaml.safe_load(quoted(document, words(document)) if as_text else document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the config {path} cannot be read: {' '.join(str(error).split())}. Mend the file."
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no config: it has no keys. Mend the file.")
    return config


def read_site(path: Path) -> SiteSettings:
    """Read the config that ``lightning-fed fit --config`` takes; what it leaves out is filled in as the strategy does.

    Raises:
        ConfigError: it cannot be read, or its strategy is not ``FederatedStrategy``.
    """
    config = mapping_in(path)
    strategy = _section(_section(config, path).get("trainer") or {}, path).get("strategy")
    if isinstance(strategy, str):
        strategy = {"class_path": strategy}
    strategy = strategy if isinstance(strategy, dict) else {}
    kind = strategy.get("class_path")
    if not isinstance(kind, str) or kind.rsplit(".", 1)[-1] not in ("FederatedStrategy", "federated"):
        raise ConfigError(
            f"trainer.strategy of {path} is not FederatedStrategy, so this would train without a federation. Write "
            "trainer: {strategy: {class_path: lightning_fed.FederatedStrategy, init_args: {coordinator: ..., site: "
            "...}}}."
        )
    given = _section(strategy.get("init_args") or {}, path)
    site = _setting(given, "site")
    identity, identity_from = key_file_of(given.get("identity"), site)
    policy = given.get("policy")
    data_set = str(given.get("data_set") or "")
    return SiteSettings(
        config=config,
        coordinator=_setting(given, "coordinator"),
        site=site,
        identity=identity,
        identity_from=identity_from,
        roster=Path(given.get("roster") or os.environ.get("LIGHTNING_FED_ROSTER") or "keys/roster.yaml"),
        policy=policy if isinstance(policy, dict) else Path(policy) if policy else None,
        ledger=Path(given.get("ledger") or Path("ledgers") / f"{data_set or site}.jsonl"),
        data_set=data_set,
        passphrase_file=Path(given["passphrase_file"]) if given.get("passphrase_file") else None,
    )


def _section(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is no config of a site: it has {value!r:.80} where keys belong. Mend the file.")
    return value


def _setting(given: Mapping[str, Any], name: str) -> str:
    variable = f"LIGHTNING_FED_{name.upper()}"
    found = given.get(name) or os.environ.get(variable)
    if not found:
        raise ConfigError(
            f"FederatedStrategy needs {name}: ... in its init_args, or the environment variable {variable}."
        )
    return str(found)
