"""What tutorials and how-to guides show is run: files, configs, commands and Python, in the page's order.

A block whose first line names a file (``# hospital.py``) is that file. Other Python blocks are run one after the other
in one process. In a console block each command is run; sites and coordinators side by side, until all have ended. What
stands below a command is in its output.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documents import PAGES, outputs, runnable
from sybil import Sybil
from sybil.region import Region

ROOT = Path(__file__).parents[2]
RUN = [page for page in PAGES if runnable(page)]
WHOLE = ("tutorial", "simulate", "add-privacy", "statistics", "evaluation")
SIDE_BY_SIDE = re.compile(r"lightning-fed ((statistics|evaluate) )?(coordinate|site|fit) |python (hospital|north)\.py")
TIMEOUT_S = 240


class Page:
    """A page's folder, and what runs in it."""

    def __init__(self, folder):
        self.folder, self.python, self.running = folder, "", []
        scripts = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, command):
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end_all(self):
        for command, process, shown in self.running:
            self.end(command, process, shown)
        self.running.clear()
        if self.python:
            self.end(self.python, self.start(shlex.join([sys.executable, "-c", self.python])))
            self.python = ""

    def end(self, command, process, shown=()):
        output, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, f"{command}\n{output}"
        lines = [" ".join(line.split()) for line in output.splitlines()]
        assert [line for line in shown if " ".join(line.split()) not in lines] == [], f"{command} prints\n{output}"

    def parsed(self, document):
        """The page's blocks as Sybil's regions."""
        starts = [0, *(match.end() for match in re.finditer("\n", document.text)), len(document.text)]
        for block in runnable(Path(document.path)):
            yield Region(starts[block.start], starts[block.end], block, self.evaluate)

    def evaluate(self, example):
        block = example.parsed
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            self.python += block.text
        else:
            for command, shown in outputs(block.text):
                if SIDE_BY_SIDE.match(command):
                    self.running.append((command, self.start(command), shown))
                else:
                    self.end_all()
                    self.end(command, self.start(command), shown)


def test_the_pages_that_say_that_they_are_run_are():
    assert set(WHOLE) <= {page.stem for page in RUN}
    assert all(len(runnable(ROOT / "docs" / f"{name}.md")) >= 4 for name in WHOLE)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("path", RUN, ids=lambda page: page.stem)
def test_all_that_a_page_shows_runs(path, tmp_path):
    page = Page(tmp_path)
    examples = list(Sybil(parsers=[page.parsed], path=str(path.parent)).parse(path).examples())
    assert len(examples) == len(runnable(path))
    try:
        for example in examples:
            example.evaluate()
        page.end_all()
    finally:
        for _, process, _ in page.running:
            process.kill()
