"""Whom a privacy promise is about."""

from typing import Literal

Unit = Literal["example", "site"]
"""One training example, or all that one site sent: different promises, never added."""
