"""What a command found, for programs and for people; `main` writes the one or the other to standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Parameters
    ----------
    facts
        What ``--json`` prints: names, numbers as they were computed, with the unit in the name of what has one, None
        for what is not known. ``docs/command-line.md`` names all keys.
    show
        Prints these facts for people.
    """

    facts: Mapping[str, Any]
    show: Callable[[Mapping[str, Any]], None]

    def write(self, *, as_json: bool) -> None:
        """Write it to standard output, as one JSON object or for people."""
        if as_json:
            sys.stdout.write(json.dumps(_finite(self.facts), indent=2, allow_nan=False) + "\n")
        else:
            self.show(self.facts)


def _finite(thing: Any) -> Any:
    """Return facts with None for each number that JSON does not have."""
    if isinstance(thing, Mapping):
        return {name: _finite(each) for name, each in thing.items()}
    if isinstance(thing, list | tuple):
        return [_finite(each) for each in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing
