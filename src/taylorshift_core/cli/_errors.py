"""The error of wrong use and bad input: `main` says it in one line and returns 2."""

from __future__ import annotations


class CommandError(Exception):
    """What was asked cannot be done; the message says why and what would help."""
