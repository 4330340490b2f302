"""Tries all that Lightning offers in federations of one site, and writes the tables of docs/lightning.md.

python docs/lightning_table.py
"""

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lightning"))

import stock_callbacks  # noqa: E402 - beside the tests
import stock_parts  # noqa: E402
import trainer_arguments  # noqa: E402
from stock_parts import NOT_TRIED  # noqa: E402
from trials import Trial, row  # noqa: E402

TABLES: dict[str, list[Trial]] = {
    "Trainer": trainer_arguments.TRIALS,
    "Callbacks": stock_callbacks.TRIALS,
    "Schedulers": stock_parts.SCHEDULERS,
    "Loggers, profilers, plugins": [*stock_parts.LOGGERS, *stock_parts.PROFILERS, *stock_parts.PLUGINS],
}
HEADS = {"Trainer": "argument", "Callbacks": "callback", "Schedulers": "scheduler"}
PRINTED = re.compile(r"<!-- printed -->\n\n(.*?)\n\n<!-- end -->", flags=re.DOTALL)


def tables() -> str:
    """Try everything; the tables in Markdown.

    Raises:
        AssertionError: something does not do what it does without a federation.
    """
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for title, trials in TABLES.items():
            lines += [f"## {title}", "", f"| {HEADS.get(title, 'class')} | tried | in a federation | |"]
            lines += ["| --- | --- | --- | --- |", *(row(trial, Path(folder)) for trial in trials), ""]
    reasons = (f"`{name}` {reason}" for name, reason in NOT_TRIED.items())
    return "\n".join([*lines, f"Not tried: {'; '.join(reasons)}."])


if __name__ == "__main__":
    page = ROOT / "docs" / "lightning.md"
    before = page.read_text()
    page.write_text(PRINTED.sub(lambda _: f"<!-- printed -->\n\n{tables()}\n\n<!-- end -->", before))
