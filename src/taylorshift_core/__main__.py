"""``python -m taylorshift_core``: the same as the command ``taylorshift``."""

from __future__ import annotations

from taylorshift_core.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
