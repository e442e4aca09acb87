"""The cost model: what is counted is what is done, and prices decide."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import array_api_strict
import numpy as np
import pytest

from taylorshift_core import Backend, Plan, State, _calibration, attention, explain, load_backend, summarise
from taylorshift_core._calibration import Key
from taylorshift_core._checks import problem_of
from taylorshift_core._costs import Prices, Work
from taylorshift_core._namespace import device_kind
from taylorshift_core._plan import forget_prices, make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMS = ("direct", "efficient")
TILES = {"query_tile": 6, "key_tile": 12, "offsets": 2}  # they divide the lengths below: nothing is rounded up


class Products:
    """Counts calls of matmul, and their multiply-adds."""

    def __init__(self) -> None:
        self.calls = self.multiply_adds = 0
        self.matmul = array_api_strict.matmul

    def __call__(self, left: Any, right: Any) -> Any:
        leading = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        self.calls += 1
        self.multiply_adds += math.prod(leading) * math.prod(left.shape[-2:]) * right.shape[-1]
        return self.matmul(left, right)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Products:
    counted = Products()
    monkeypatch.setattr(array_api_strict, "matmul", counted)
    return counted


def arrays(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [array_api_strict.asarray(rng.standard_normal(shape)) for shape in shapes]


SIZES = {
    "alike": [(3, 24, 4)] * 3,
    "cross": [(1, 12, 4), (1, 36, 4), (1, 36, 3)],
    "grouped": [(6, 24, 5), (2, 24, 5), (2, 24, 5)],
    "batch": [(2, 3, 24, 3)] * 3,
    "one head": [(24, 4), (24, 4), (24, 7)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shapes", SIZES.values(), ids=SIZES)
def test_every_multiply_add_of_a_product_is_counted(
    products: Products, shapes: list[tuple[int, ...]], form: str
) -> None:
    inputs = arrays(*shapes)
    plan = replace(explain(*inputs, form=form), **TILES)
    attention(*inputs, plan=plan)
    assert plan.work.products == products.multiply_adds > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{"is_causal": True}, {"with_past": True}, {"return_state": True}])
def test_so_is_what_causal_attention_and_states_do_beside(
    products: Products, options: dict[str, bool], form: str
) -> None:
    inputs, old = arrays(*[(2, 24, 4)] * 3), arrays(*[(2, 5, 4)] * 2)
    options = dict(options)
    more: dict[str, Any] = {"state": summarise(*old)} if options.pop("with_past", False) else {}
    assert isinstance(more.get("state"), State | None)
    plan = replace(explain(*inputs, form=form, **more, **options), **TILES)
    products.multiply_adds = 0
    attention(*inputs, plan=plan, **more, **options)
    assert plan.work.products == products.multiply_adds > 0


def test_a_dense_mask_is_counted(products: Products) -> None:
    inputs, mask = arrays(*[(2, 24, 4)] * 3), array_api_strict.ones((24, 24), dtype=array_api_strict.bool)
    plan = replace(explain(*inputs, attn_mask=mask), **TILES)
    attention(*inputs, plan=plan, attn_mask=mask)
    assert plan.work.products == products.multiply_adds > 0
    assert plan.crossover is None


def test_a_step_of_the_efficient_form_is_a_product(products: Products) -> None:
    inputs = arrays(*SIZES["alike"])
    plan = replace(explain(*inputs, form="efficient"), **TILES)
    attention(*inputs, plan=plan)
    assert plan.work.steps == products.calls


def test_a_step_of_the_direct_form_is_two_products_or_a_tile_of_queries(products: Products) -> None:
    inputs = arrays(*SIZES["alike"])
    plan = replace(explain(*inputs, form="direct"), **TILES)
    attention(*inputs, plan=plan)
    assert plan.work.steps == products.calls / 2 + 24 / TILES["query_tile"]


@pytest.mark.parametrize(("form", "entries"), [("direct", 8 * 100 * 300), ("efficient", (8 * 100 + 2 * 300) * 15)])
def test_entries_are_scores_or_features(form: str, entries: int) -> None:
    plan = explain(np.ones((8, 100, 4)), np.ones((2, 300, 4)), np.ones((2, 300, 9)), form=form)
    assert plan.work.entries == entries


def test_a_mask_is_counted() -> None:
    x, mask = np.ones((2, 50, 4)), np.ones(50, dtype=bool)
    for form in FORMS:
        assert explain(x, x, x, form=form, key_mask=mask).work.prepared > explain(x, x, x, form=form).work.prepared


def test_lengths_that_are_not_there_cost_next_to_nothing() -> None:
    empty = np.ones((2, 0, 4))
    for options in ({}, {"is_causal": True}):
        plans = [explain(empty, empty, empty, form=form, **options) for form in FORMS]
        assert [plan.work.products for plan in plans] == [0, 0]
        assert all(0 <= plan.seconds < 0.1 for plan in plans)


def test_a_price_is_nanoseconds_for_one_unit() -> None:
    work = Work(products=5, entries=7, masked=11, prepared=13, states=17, steps=19, calls=23)
    assert Prices(*work).seconds(work) == pytest.approx(1e-9 * sum(n * n for n in work), rel=1e-15)
    assert [Prices(**{name: 2.0}).seconds(work) * 5e8 for name in Work._fields] == pytest.approx(list(work), rel=1e-15)


# Prices decide


Speeds = dict[Key, dict[str, Prices]]


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Speeds, Speeds]]:
    """Tables that stand in for the shipped and the measured prices."""
    tables: tuple[Speeds, Speeds] = {("numpy", "cpu", "float64"): priced(1.0)}, {}
    for name, table in zip(("shipped", "measured"), tables, strict=True):
        monkeypatch.setattr(f"taylorshift_core._calibration.{name}", lambda table=table: table)
    forget_prices_of_plans()
    yield tables
    monkeypatch.undo()
    forget_prices()


def forget_prices_of_plans() -> None:
    make_plan.cache_clear()


def priced(ratio: float) -> dict[str, Prices]:
    """Return prices in which a multiply-add of the efficient form costs `ratio` times one of the direct form."""
    return {"direct": Prices(products=1.0), "efficient": Prices(products=ratio)}


def planned(head_dim: int = 8, length: int = 64, dtype: str = "float64", **options: Any) -> Plan:
    x = np.ones((2, length, head_dim), dtype)
    return explain(x, x, x, **options)


@pytest.mark.parametrize(("ratio", "form"), [(0.01, "efficient"), (100.0, "direct")])
def test_measured_prices_turn_the_choice_around(speeds: tuple[Speeds, Speeds], ratio: float, form: str) -> None:
    _, measured = speeds
    measured["numpy", "cpu", "float64"] = priced(ratio)
    assert planned().form == form
    assert "predicted to take" in planned().reason


def test_prices_are_those_of_the_dtype_that_is_summed_in(speeds: tuple[Speeds, Speeds]) -> None:
    shipped, measured = speeds
    measured["numpy", "cpu", "float64"] = priced(100.0)
    shipped["numpy", "cpu", "float32"] = priced(0.01)
    assert [planned(dtype=dtype).form for dtype in ("float64", "float32", "float16")] == [
        "direct",
        "efficient",
        "efficient",
    ]


def test_prices_of_an_unknown_library_are_those_of_numpy(speeds: tuple[Speeds, Speeds]) -> None:
    shipped, _ = speeds
    shipped["numpy", "cpu", "float64"] = priced(0.01)
    inputs = arrays((2, 16, 8), (2, 16, 8), (2, 16, 8))
    assert explain(*inputs).form == "efficient"
    shipped["array_api_strict", "cpu", "float64"] = priced(100.0)
    forget_prices_of_plans()
    assert explain(*inputs).form == "direct"


def test_the_crossover_is_where_predicted_times_meet(speeds: tuple[Speeds, Speeds]) -> None:
    """With one price for multiply-adds alone: N (d + e + 2) = 2 D (e + 1)."""
    for d in (8, 16, 33):
        meet = 2 * (d + 1) * (d + 2) / 2 * (d + 1) / (2 * d + 2)
        assert planned(d).crossover == math.floor(meet) + 1
        assert planned(d, length=5).crossover == planned(d).crossover


def test_the_direct_form_meets_half_the_pairs_of_causal_attention() -> None:
    view = np.broadcast_to(np.float32(1), (1, 10**6, 16))
    causal, plain = (explain(view, view, view, form="direct", is_causal=causal).work for causal in (True, False))
    assert causal.entries + causal.masked == pytest.approx(plain.entries / 2, rel=0.02)
    assert causal.masked < 0.02 * plain.entries


@pytest.mark.parametrize(("efficient", "crossover"), [(0.0, 1), (1e12, None)])
def test_a_form_that_always_wins_has_no_crossover(
    speeds: tuple[Speeds, Speeds], efficient: float, crossover: int | None
) -> None:
    shipped, _ = speeds
    prices = {"direct": Prices(products=1.0), "efficient": Prices(products=efficient, calls=efficient)}
    shipped["numpy", "cpu", "float64"] = prices
    assert planned().crossover == crossover


@pytest.mark.parametrize(
    ("device", "kind"),
    [(None, "cpu"), ("cpu", "cpu"), ("cuda:1", "gpu"), ("<CUDA Device 0>", "gpu"), ("Device(opencl:cpu:0)", "cpu")],
)
def test_kinds_of_devices(device: str | None, kind: str) -> None:
    assert device_kind(device) == kind


def test_an_objective_of_memory_takes_what_holds_less() -> None:
    for length, head_dim in ((16, 64), (100_000, 8)):
        x = np.broadcast_to(np.float32(1), (1, length, head_dim))
        plan = explain(x, x, x, objective="memory")
        assert plan.temporary_bytes == min(explain(x, x, x, form=form).temporary_bytes for form in FORMS)
    assert {explain(*[np.ones((1, n, d))] * 3, objective="memory").form for n, d in ((16, 64), (100_000, 8))} == set(
        FORMS
    )


@pytest.mark.parametrize(("seconds", "form", "name"), [(1e-6, "efficient", "numpy"), (10, "direct", "another")])
def test_each_form_is_priced_where_it_would_be_computed(
    monkeypatch: pytest.MonkeyPatch, seconds: float, form: str, name: str
) -> None:
    """One form is worth a call of NumPy; the other is not, so that NumPy's low price for it says nothing."""
    numpy = load_backend("numpy")
    own = Backend(name="another", namespace=numpy.namespace, worth_a_call=lambda plan: plan.form == "efficient")
    table = {
        ("another", "cpu", "float64"): {each: Prices(calls=1e9) for each in FORMS},
        (numpy.prices, "cpu", "float64"): {"direct": Prices(calls=1.0), "efficient": Prices(calls=1e9 * seconds)},
    }
    monkeypatch.setattr(_calibration, "measured", lambda: table)
    problem = problem_of({"query": (2, 9, 8), "key": (2, 9, 8), "value": (2, 9, 8)})
    plan = make_plan(problem, own, "auto", 8, stand_in=numpy)
    assert (plan.form, plan.backend.name) == (form, name)
    assert make_plan(problem, own, "direct", 8, stand_in=numpy).backend is own
