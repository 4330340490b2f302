"""The system's Chromium, for whatever looks at pages: tests, and the pictures of the documentation."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium(missing: Callable[[str], Any]) -> Iterator[Any]:
    """A browser.

    Args:
        missing: told what to do where there is none, and does not return: ``pytest.skip``, ``sys.exit``.
    """
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        missing("there is no Chromium here: apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser,
    ):
        yield browser
