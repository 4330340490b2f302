"""What a coordinator's folder says to whoever reads it: without torch, so that a report is there at once."""

from pathlib import Path
from typing import Any

import msgspec

from lightning_fed.errors import StoreError

LEDGER = "ledger.jsonl"
"""The coordinator's privacy ledger in its folder."""


class _Recorded(msgspec.Struct, frozen=True):
    run: str
    plan: dict[str, Any]


def read_run(folder: Path) -> tuple[str, dict[str, Any]]:
    """The run and the plan's settings of a store, which may be in use, and may be somebody else's.

    As plain data: a plan may name classes, and whoever only reads a store must import nothing.

    Raises:
        StoreError: the folder is no store.
    """
    try:
        record = msgspec.json.decode((folder / "run.json").read_bytes(), type=_Recorded)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{folder} is not a coordinator's store: {error}. Name the folder of a run.") from error
    return record.run, record.plan
