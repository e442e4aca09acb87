"""Operation and memory counts of both forms, and the lengths at which the efficient form wins.

The counts are those of the paper (arXiv 2403.02920, a matrix product of m x k by k x n counts 2 m k n), written for one
key head with any lengths, value_dim and groups. `features` says which quadratic features are counted: "published"
takes all head_dim**2 products, "symmetric", as in this library, each pair once: head_dim * (head_dim + 1) / 2.
"""

from __future__ import annotations

from math import isqrt

from taylorshift_core.errors import OptionError

_FORMS = ("direct", "efficient")
_FEATURES = ("symmetric", "published")


def operation_count(
    form: str,
    query_length: int,
    key_length: int | None = None,
    *,
    head_dim: int,
    value_dim: int | None = None,
    groups: int = 1,
    features: str = "symmetric",
) -> int:
    """Count the additions and multiplications of one form on one key head.

    Parameters
    ----------
    form
        "direct" or "efficient".
    query_length, key_length
        Tokens; `key_length` defaults to `query_length`.
    head_dim, value_dim
        Entries of a key and of a value; `value_dim` defaults to `head_dim`.
    groups
        Query heads that share the key head.
    features
        "symmetric" or "published", see the module.

    Raises
    ------
    OptionError
        If `form` or `features` is unknown or a size is out of range.

    Examples
    --------
    >>> operation_count("direct", 1000, head_dim=32)
    134000000
    >>> operation_count("efficient", 1000, head_dim=32)
    75140000
    """
    keys, e = _sizes(form, query_length, key_length, head_dim, value_dim, groups)
    queries, d = groups * query_length, head_dim
    if form == "direct":
        return queries * keys * (2 * d + 2 * e + 6)
    squares = _n_squares(d, features)
    per_key = squares + 2 * (squares + d) * (e + 1) + (e + 1)
    per_query = squares + 2 * (squares + d) * (e + 1) + 3 * (e + 1) + e
    return keys * per_key + queries * per_query


def byte_count(
    form: str,
    query_length: int,
    key_length: int | None = None,
    *,
    head_dim: int,
    value_dim: int | None = None,
    groups: int = 1,
    features: str = "symmetric",
    itemsize: int = 4,
) -> int:
    """Count the bytes that one form holds at once on one key head, with all its intermediate results stored.

    This is the paper's account of an implementation without tiles; it decides `crossover_memory`. What this library
    itself holds is a tile, whatever the length.

    Parameters and errors are those of `operation_count`; `itemsize` is the size of an entry in bytes.

    Examples
    --------
    >>> byte_count("direct", 1000, head_dim=32), byte_count("efficient", 1000, head_dim=32)
    (8128000, 2569696)
    """
    keys, e = _sizes(form, query_length, key_length, head_dim, value_dim, groups)
    queries, d = groups * query_length, head_dim
    if form == "direct":
        return itemsize * (keys * e + 2 * queries * keys)
    squares = _n_squares(d, features)
    return itemsize * (squares * (e + 1) + squares * max(queries, keys) + d * queries + (d + e + 1) * keys)


def crossover_length(head_dim: int, *, value_dim: int | None = None, features: str = "symmetric") -> int:
    """Return the first length at which the efficient form takes fewer operations than the direct form (paper: N0).

    Examples
    --------
    >>> crossover_length(64), crossover_length(64, features="published")
    (2145, 4161)
    """
    efficient = operation_count("efficient", 1, head_dim=head_dim, value_dim=value_dim, features=features)
    direct = operation_count("direct", 1, head_dim=head_dim, value_dim=value_dim)
    return efficient // direct + 1


def crossover_memory(head_dim: int, *, value_dim: int | None = None, features: str = "symmetric") -> int:
    """Return the first length at which the efficient form holds fewer entries than the direct form (paper: N1).

    Examples
    --------
    >>> crossover_memory(64), crossover_memory(64, features="published")
    (1163, 2174)
    """
    constant = byte_count("efficient", 0, head_dim=head_dim, value_dim=value_dim, features=features, itemsize=1)
    once = byte_count("efficient", 1, head_dim=head_dim, value_dim=value_dim, features=features, itemsize=1)
    slope = once - constant - (byte_count("direct", 1, head_dim=head_dim, value_dim=value_dim, itemsize=1) - 2)
    root = (slope + isqrt(slope * slope + 8 * constant)) // 4  # of 2 N**2 - slope N - constant, rounded down
    return root + 1


def _n_squares(head_dim: int, features: str) -> int:
    if features not in _FEATURES:
        msg = f"features must be one of {', '.join(map(repr, _FEATURES))}; got {features!r}"
        raise OptionError(msg)
    return head_dim * head_dim if features == "published" else head_dim * (head_dim + 1) // 2


def _sizes(
    form: str, query_length: int, key_length: int | None, head_dim: int, value_dim: int | None, groups: int
) -> tuple[int, int]:
    if form not in _FORMS:
        msg = f"form must be one of {', '.join(map(repr, _FORMS))}; got {form!r}"
        raise OptionError(msg)
    keys = query_length if key_length is None else key_length
    e = head_dim if value_dim is None else value_dim
    if min(query_length, keys) < 0 or min(head_dim, e, groups) < 1:
        msg = (
            f"lengths must be at least 0, head_dim, value_dim and groups at least 1; got query_length={query_length}, "
            f"key_length={keys}, head_dim={head_dim}, value_dim={e}, groups={groups}"
        )
        raise OptionError(msg)
    return keys, e
