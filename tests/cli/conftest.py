"""The command line, called in this process."""

import logging
import signal
import sys

import pytest

from lightning_fed.cli.main import main


@pytest.fixture
def lightning_fed(tmp_path, monkeypatch, capsys):
    """Call a command in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, handlers, level = signal.getsignal(signal.SIGTERM), logging.root.handlers[:], logging.root.level

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lightning-fed", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    signal.signal(signal.SIGTERM, before)
    # A command sets up logging for its process, which is this one.
    logging.root.handlers[:], logging.root.level = handlers, level
