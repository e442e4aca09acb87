"""Prices of work: those that were measured on this machine, kept in the user's cache folder, else those that we ship.

Both are files of one format; `taylorshift calibrate` writes them.
"""

from __future__ import annotations

import json
import os
import platform
import warnings
from dataclasses import fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from taylorshift_core._costs import Prices

FORMAT = "taylorshift prices"
VERSION = 1  # goes up when what is counted changes: prices of other counts say nothing
VARIABLE = "TAYLORSHIFT_CACHE"
FILE = "prices.json"
_FORMS = {"direct", "efficient"}
_NAMES = {each.name for each in fields(Prices)}
_MOST = 1e15  # nanoseconds: eleven days

Key = tuple[str, str, str]  # backend, kind of device, dtype that is summed in
Table = dict[Key, dict[str, Prices]]


class PricesError(ValueError):
    """A file is not one of prices, or not of this machine."""


def prices_of(backend: str, device: str, dtype: str, form: str) -> Prices:
    """Return the prices of a form: measured here, else shipped, else of what is most like it.

    Both forms of a problem are always priced from one entry of one table, so that they can be compared.
    """
    tables = measured(), shipped()
    likeness = [(backend, device, dtype), (backend, "cpu", dtype), ("numpy", "cpu", dtype)]
    for key in likeness:
        for table in tables:
            if key in table:
                return table[key][form]
    return shipped()["numpy", "cpu", "float64"][form]


def cache_file() -> Path | None:
    """Return where the prices of this machine are kept: in $TAYLORSHIFT_CACHE, else in the user's cache folder.

    None where neither is known: the folder comes from platformdirs, which is an extra.
    """
    folder = os.environ.get(VARIABLE)
    if folder:
        return Path(folder) / FILE
    try:
        from platformdirs import user_cache_path
    except ImportError:
        return None
    return Path(user_cache_path("taylorshift-core", appauthor=False)) / FILE


@cache
def shipped() -> Table:
    """Return the prices that come with the library."""
    return _table(json.loads(resources.files("taylorshift_core").joinpath(FILE).read_text(encoding="utf-8")))


@cache
def measured() -> Table:
    """Return the prices measured on this machine; none where there is no file, or with one warning no good one."""
    path = cache_file()
    if path is None:
        return {}
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, PricesError) as error:
        reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else error
        msg = f"the measured speeds in {path} are not used: {reason}. Measure again with `taylorshift calibrate`, or delete the file."
        warnings.warn(msg, RuntimeWarning, stacklevel=2)
        return {}


def forget() -> None:
    """Read the files again when prices are next asked for."""
    shipped.cache_clear()
    measured.cache_clear()


def read(path: Path) -> Table:
    """Return the prices in a file, which must be of this format, version and machine."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # neither JSON nor text
        msg = f"it is no JSON text ({error})"
        raise PricesError(msg) from error
    table = _table(content)
    if content.get("machine") != machine():
        msg = f"it was measured on another machine ({content.get('machine')})"
        raise PricesError(msg)
    return table


def machine() -> dict[str, Any]:
    """Return what tells machines apart whose speeds differ, as far as Python knows it."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}


def _table(content: Any) -> Table:
    """Return the prices in what was read; raise PricesError where it is not what `write` writes."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        msg = f"it is no file of {FORMAT}"
        raise PricesError(msg)
    if content.get("version") != VERSION:
        msg = f"it is of version {content.get('version')!r}, this library reads version {VERSION}"
        raise PricesError(msg)
    try:
        return {
            (backend, device, dtype): _both_forms(forms)
            for backend, devices in content["prices"].items()
            for device, dtypes in devices.items()
            for dtype, forms in dtypes.items()
        }
    except (KeyError, AttributeError, TypeError) as error:
        msg = f"its prices are not laid out as this library writes them ({type(error).__name__}: {error})"
        raise PricesError(msg) from error


def _both_forms(forms: dict[str, Any]) -> dict[str, Prices]:
    if forms.keys() != _FORMS:
        msg = f"it has prices of {', '.join(sorted(forms)) or 'nothing'} instead of both forms"
        raise PricesError(msg)
    return {form: _prices(numbers) for form, numbers in forms.items()}


def _prices(numbers: dict[str, Any]) -> Prices:
    good = numbers.keys() == _NAMES and all(
        type(number) in {int, float} and 0 <= number < _MOST for number in numbers.values()
    )
    if not good or not any(numbers.values()):
        msg = f"a price must be a number from 0 upward, of each kind of work, not all 0; it has {numbers}"
        raise PricesError(msg)
    return Prices(**numbers)
