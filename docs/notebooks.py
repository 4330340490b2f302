"""Makes the notebooks in examples/notebooks of pages of this folder, runs them, and keeps what they print.

``make notebooks``, or ``python docs/notebooks.py [NAME ...]``. A tutorial is written on its page; a test says when its
notebook is behind. What is kept of the outputs has no dates, no paths of this machine and no warnings.
"""

import argparse
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from documents import Block, blocks_of  # noqa: E402 - beside the tests

PAGES = {"tutorial": "tutorial", "fracture": "fracture", "privacy_and_compression": "privacy-and-compression"}
FOLDER = ROOT / "examples" / "notebooks"

PLACE = "What this notebook writes goes into a folder of its own, which is new each time:"
NEW_FOLDER = "import os\nimport tempfile\n\nos.chdir(tempfile.mkdtemp())"
SIDE_BY_SIDE = re.compile(r"lightning-fed coordinate |python hospital\.py ")
TIMEOUT_S = 900

_OF_THIS_RUN = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"[0-9a-f]{4}(?: +[0-9a-f]{4}){15}"), "FINGERPRINT"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "HASH"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?"), "yyyy-mm-dd hh:mm:ss"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "hh:mm:ss"),
    (re.compile(r"\b\d+(\.\d+)? (s|ms|min)\b"), r"… \2"),
    # A table of rounds: seconds stand behind the number of sites.
    (re.compile(r"(\d+/\d+ │ +)\d+\.\d │"), r"\1  … │"),
)


def made(name: str) -> NotebookNode:
    """A page as a notebook that has not run."""
    page = ROOT / "docs" / f"{PAGES[name]}.md"
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    cells, done = [], 0
    for block in blocks_of(page):
        if block.language not in ("python", "yaml", "console"):
            continue
        cells += _prose(lines[done : block.start])
        if done == 0:
            cells += [new_markdown_cell(PLACE), new_code_cell(NEW_FOLDER)]
        cells.append(new_code_cell(_code(block).rstrip("\n")))
        done = block.end
    cells += _prose(lines[done:])
    for number, cell in enumerate(cells):
        cell["id"] = f"{name}-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def _prose(lines: list[str]) -> list[NotebookNode]:
    """Text between blocks; links lead where they did, from another folder."""
    text = re.sub(r"<!--.*?-->\n*", "", "".join(lines), flags=re.DOTALL).strip()
    text = re.sub(r"\]\((?![a-z]+:|#|\.\./)([^)]+)\)", r"](../../docs/\1)", text)
    text = text.replace("](../examples/notebooks/", "](").replace("](../README", "](../../README")
    return [new_markdown_cell(text)] if text else []


def _code(block: Block) -> str:
    """What a cell holds: Python, a file to write, or commands of a shell, those of several processes side by side."""
    if block.file:
        return f"%%writefile {block.file}\n{block.text}"
    if block.language == "python":
        return block.text
    commands = block.commands
    if all(map(SIDE_BY_SIDE.match, commands)):
        if "lightning-fed coordinate " in commands[0]:
            # It runs on behind the next cells, until its sites have what they wait for.
            return f"%%script --bg bash\n{commands[0]} > coordinator.log 2>&1"
        *others, last = commands
        # One after the other in what is printed, whoever is faster.
        started = [f"{command} > {number}.log & process{number}=$!" for number, command in enumerate(others, 1)]
        ended = [f"wait $process{number} && cat {number}.log" for number in range(1, len(commands))]
        return "\n".join(["%%script bash -e", *started, last, *ended])
    return "\n".join(["%%script bash -e", *commands])


def run(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells, and keep of their outputs what is the same on each machine.

    Args:
        notebook: what to run; it gets the outputs.
        folder: where its kernel starts.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "COLUMNS": "100",
    }
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=resources).execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = _kept(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def _kept(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What a cell printed and its value, as one text."""
    pieces: list[Any] = [one.text for one in outputs if one.output_type == "stream" and one.name == "stdout"]
    pieces += [one.data["text/plain"] for one in outputs if one.output_type == "execute_result"]
    text = "".join(pieces)
    for pattern, word in _OF_THIS_RUN:
        text = pattern.sub(word, text)
    return [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []


def main() -> None:
    """Make the notebooks that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PAGES)}; all if none is given")
    FOLDER.mkdir(exist_ok=True)
    for name in parser.parse_args().names or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(made(name), Path(folder))
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(shlex.quote(str((FOLDER / f"{name}.ipynb").relative_to(ROOT))))  # noqa: T201


if __name__ == "__main__":
    main()
