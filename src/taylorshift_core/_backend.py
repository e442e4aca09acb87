"""A backend is a value: what the array API standard leaves open about one array library."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taylorshift_core import augment, features, loops, masked, tiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

Array = Any


def _working_dtype(xp: Any, dtype: Any) -> Any:
    """Return the precision to sum in: float32 for narrower floats, else the input's own."""
    return xp.float32 if xp.finfo(dtype).bits < 32 else dtype


def _as_it_is(array: Array) -> Array:
    return array


def _squared_product(xp: Any, first: Array, second: Array) -> Array:
    product = xp.matmul(first, second)
    product *= product
    return product


def _accept(array: Array) -> str | None:  # noqa: ARG001  the generic answer needs no look
    return None


def _no_step(name: str, *arrays: Array) -> None:  # noqa: ARG001  the core's own steps
    return None


def _no_stand_in(array: Array) -> None:  # noqa: ARG001  this adapter computes by itself
    return None


def _always_worth_it(plan: Any) -> bool:  # noqa: ARG001  whoever stands in takes all
    return True


def _not_elsewhere(evaluation: Any, method: str, *given: Any) -> Any:
    return getattr(evaluation.without_stand_in(), method)(*given)


def _no_scope(array: Array) -> AbstractContextManager[object]:  # noqa: ARG001  nothing to enter
    return nullcontext()


def _not_recorded(evaluation: Any, operands: Any) -> tuple[Array, ...]:
    results: tuple[Array, ...] = evaluation.attend(operands)
    return results


def _no_devices() -> tuple[Any, ...]:
    return ()


def _from_numpy(namespace: Any) -> Callable[..., Array]:
    def from_numpy(array: Any, device: Any = None) -> Array:
        return namespace.asarray(array) if device is None else namespace.asarray(array, device=device)

    return from_numpy


def _to_numpy(array: Array) -> Any:
    """Return a NumPy array through DLPack, or through the library's own ``__array__``."""
    numpy: Any = __import__("numpy")
    return numpy.asarray(array)


@dataclass(frozen=True, kw_only=True, eq=False)  # each is one of its kind, found fast in the tables of plans
class Backend:
    """One array library, as the core sees it.

    Only `name` and `namespace` are needed; every other field has a generic default that uses nothing but the array
    API, and an adapter fills in only what pays.

    Parameters
    ----------
    name
        The import name of the library, and the name of its entry point.
    namespace
        Its array-API namespace, as `array_api_compat` gives it.
    working_dtype
        ``(namespace, dtype) -> dtype``: the precision to sum in.
    prices
        The name under which measured speeds are kept, `name` by default: an adapter that computes in several ways has one
        for each.
    tile_bytes
        How many bytes of temporary a tile may fill: about a core's second-level cache, or a share of a GPU's memory.
    tile_tokens
        How many tokens to take at once where the products of a tile, see `state_tile`, keep their temporaries small by
        themselves; otherwise as many as `tile_bytes` allow.
    tokens_at_once
        How many tokens of a tile have memory of their own at once, where steps are whole: their features are never written
        down, and keys are prepared as they are met. Otherwise all tokens of a tile, and all keys.
    batch_at_once
        Whether the loops hand a step all heads and batches together (the tile is then shared between them), or
        one after the other.
    traced
        Whether calls are traced into programs, which a loop over chunks in Python would make as long as the sequence. The
        causal direct form is then one loop, over all keys, of which half are masked.
    pack
        ``array -> array``: lays an array out in memory as it is indexed.
    augment
        Normalises and augments a tile, see `taylorshift_core.augment.augment`.
    augment_back
        Gradients of that, see `taylorshift_core.augment.augment_back`.
    squared_product
        ``(namespace, a, b) -> matmul(a, b)**2``, perhaps in memory that the next call uses again.
    feature_tile
        ``(namespace, x, first, last) -> features``, see `taylorshift_core.features.feature_tile`.
    state_tile, read_tile, back_tile, meet_tile, meet_back_tile
        The products of a tile, see `taylorshift_core.tiles`.
    whole_step
        ``(name, *arrays) -> step or None``: a step of the loops from tokens as they were given to what they become, in
        one piece, for arrays like these; by name: see `taylorshift_core.tiles`.
    fold_back, tangent_tile
        Gradients and tangents of features, see `taylorshift_core.features`.
    sum_allowed
        ``(namespace, weights, values, allowed) -> sums`` of what a mask leaves, see `taylorshift_core.masked`.
    fold_tiles, map_tiles, scan_tiles, scan_sums
        The loops over tokens, see `taylorshift_core.loops`.
    stand_in
        ``query -> name or None``: the adapter for which attention is planned, because this one has it computed there, on
        views of the same memory.
    worth_a_call
        ``plan -> bool``: whether what such a plan of the stand-in does is worth a call of it; if not, attention is planned
        for this one.
    elsewhere
        ``(evaluation, method, *arguments) -> result``: calls a method of such an evaluation, on views by
        `Evaluation.of_stand_in`, or where that is impossible by `Evaluation.without_stand_in`.
    differentiable
        ``(evaluation, operands) -> results``: evaluates so that the library's own automatic differentiation finds the
        gradients of `evaluation.vjp`, see `taylorshift_core.Evaluation`.
    no_gradients
        Why arrays of this library have no gradients, where they have none.
    scope
        ``array -> context manager`` around all work on it: the array's device made current, autocasting off.
    refuse
        ``array -> reason or None``: kinds of arrays of this library that would give wrong results.
    wait
        ``array -> array``, returned when it is computed; for clocks.
    peak_memory
        ``function -> (result, bytes)``: calls it and tells the most memory that was allocated meanwhile.
    from_numpy, to_numpy, devices, version
        For tests, benchmarks and files.
    """

    name: str
    namespace: Any
    working_dtype: Callable[[Any, Any], Any] = _working_dtype
    prices: str = ""
    tile_bytes: int = 1 << 20
    tile_tokens: int | None = None
    tokens_at_once: int | None = None
    batch_at_once: bool = True
    traced: bool = False
    pack: Callable[[Array], Array] = _as_it_is
    augment_back: Callable[..., tuple[Array, Array]] = augment.augment_back
    augment: Callable[..., Array] = augment.augment
    squared_product: Callable[[Any, Array, Array], Array] = _squared_product
    feature_tile: Callable[..., Array] = features.feature_tile
    state_tile: Callable[..., Array] = tiles.state_tile
    read_tile: Callable[..., Array] = tiles.read_tile
    back_tile: Callable[..., Array] = tiles.back_tile
    meet_tile: Callable[..., Array] = tiles.meet_tile
    meet_back_tile: Callable[..., tuple[Array, Array, Array]] = tiles.meet_back_tile
    whole_step: Callable[..., Callable[..., tuple[Array, ...]] | None] = _no_step
    fold_back: Callable[..., Array] = features.fold_back
    tangent_tile: Callable[..., Array] = features.tangent_tile
    sum_allowed: Callable[[Any, Array, Array, Array], Array] = masked.sum_allowed
    fold_tiles: Callable[..., tuple[Array, ...]] = loops.fold_tiles
    map_tiles: Callable[..., tuple[Array, ...]] = loops.map_tiles
    scan_tiles: Callable[..., tuple[Array, tuple[Array, ...]]] = loops.scan_tiles
    scan_sums: Callable[..., tuple[Array, tuple[Array, ...]]] = loops.scan_sums
    stand_in: Callable[[Array], str | None] = _no_stand_in
    worth_a_call: Callable[[Any], bool] = _always_worth_it
    elsewhere: Callable[..., Any] = _not_elsewhere
    differentiable: Callable[[Any, Any], tuple[Array, ...]] = _not_recorded
    no_gradients: str | None = None
    scope: Callable[[Array], AbstractContextManager[object]] = _no_scope
    refuse: Callable[[Array], str | None] = _accept
    wait: Callable[[Array], Array] = _as_it_is
    peak_memory: Callable[[Callable[[], Array]], tuple[Array, int]] | None = None
    from_numpy: Callable[..., Array] = None  # type: ignore[assignment]  # filled in below
    to_numpy: Callable[[Array], Any] = _to_numpy
    devices: Callable[[], tuple[Any, ...]] = _no_devices

    def __post_init__(self) -> None:
        object.__setattr__(self, "prices", self.prices or self.name)
        if self.from_numpy is None:
            object.__setattr__(self, "from_numpy", _from_numpy(self.namespace))
