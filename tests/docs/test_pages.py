"""What tutorials and how-to guides show is run: files, configs, commands and Python, in the page's order.

A block whose first line names a file (``# site.py``) is that file. Other Python blocks are run one after the other in
one process. In a console block each command is run; sites and coordinators side by side, until all have ended.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import CodeBlockParser

ROOT = Path(__file__).parents[2]
PAGES = ("tutorial", "simulate", "add-privacy", "statistics")
NAMED = re.compile(r"# (\S+\.(?:py|yaml))\n")
SIDE_BY_SIDE = re.compile(r"lightning-fed (statistics )?(coordinate|site) |python site\.py ")
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
        for command, process in self.running:
            self.end(command, process)
        self.running.clear()
        if self.python:
            self.end(self.python, self.start(shlex.join([sys.executable, "-c", self.python])))
            self.python = ""

    def end(self, command, process):
        output, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, f"{command}\n{output}"

    def block(self, language):
        def evaluate(example):
            text = example.parsed
            if named := NAMED.match(text):
                path = self.folder / named[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            elif language == "python":
                self.python += text
            elif language == "console":
                for command in re.findall(r"^\$ (.+)$", text, flags=re.MULTILINE):
                    if SIDE_BY_SIDE.match(command):
                        self.running.append((command, self.start(command)))
                    else:
                        self.end_all()
                        self.end(command, self.start(command))

        return evaluate


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("name", PAGES)
def test_all_that_a_page_shows_runs(name, tmp_path):
    page = Page(tmp_path)
    parsers = [CodeBlockParser(language, page.block(language)) for language in ("python", "yaml", "console")]
    examples = list(Sybil(parsers=parsers, path=str(ROOT / "docs")).parse(ROOT / "docs" / f"{name}.md").examples())
    assert len(examples) >= 4
    try:
        for example in examples:
            example.evaluate()
        page.end_all()
    finally:
        for _, process in page.running:
            process.kill()
