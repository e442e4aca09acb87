"""ndonnx: one ONNX model with dynamic batch and length, run in onnxruntime and held against the definition."""

from __future__ import annotations

import dataclasses
import itertools
import resource
from typing import TYPE_CHECKING, Any

import ndonnx as ndx
import numpy as np
import onnx
import onnxruntime
import pytest
from oracle import attention_oracle, attention_weights_oracle, causal
from problems import Problem, draw, every_three_together

from taylorshift_core import (
    BackendError,
    OptionError,
    attention,
    attention_jvp,
    attention_vjp,
    attention_weights,
    explain,
    load_backend,
    loops,
    summarise,
)
from taylorshift_core.features import apply_multiplicity, feature_tile, n_features, n_offsets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORMS = ("direct", "efficient")
NDONNX = load_backend("ndonnx")
ALLOWED = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3}
BATCHES, LENGTHS = (1, 3), ((0, 5), (1, 1), (7, 0), (1, 40), (40, 1), (70, 300))  # queries, keys
PROBLEM = Problem(4, 5, 16, 8, heads=4, kv_heads=2, query_batch=(2,), key_batch=(2,), value_batch=(2,))


def _argument(array: np.ndarray, shape: tuple[Any, ...]) -> Any:
    return ndx.argument(shape=shape, dtype=getattr(ndx, array.dtype.name))


def _of_unknown_lengths(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return arguments like these arrays; batch and length are names, heads and dims are known."""
    shapes = {name: array.shape for name, array in arrays.items()}
    for name, length in (("query", "N"), ("key", "M"), ("value", "M")):
        *batch, heads, _, dim = shapes[name]
        shapes[name] = *(f"{name}_batch_{i}" for i in range(len(batch))), heads, length, dim
    if "key_mask" in arrays:
        *rest, _ = shapes["key_mask"]
        with_heads = len(rest) == arrays["key"].ndim - 2
        batch = rest[:-1] if with_heads else rest
        heads = rest[-1:] if with_heads else []
        shapes["key_mask"] = *(f"mask_batch_{i}" for i in range(len(batch))), *heads, "M"
    if len(shapes.get("scale", ())) > 2:
        *batch, heads, _, _ = shapes["scale"]
        shapes["scale"] = *(f"query_batch_{i}" for i in range(len(batch))), heads, 1, 1
    return {name: _argument(array, shapes[name]) for name, array in arrays.items()}


def _model(
    function: Callable[..., Any], arrays: dict[str, np.ndarray], **options: Any
) -> tuple[Any, Callable[..., np.ndarray]]:
    """Trace `function` with arguments of unknown length; return the model and what runs it."""
    arguments = _of_unknown_lengths(arrays)
    output = function(**arguments, **options)
    assert output.shape[-3:] == (arrays["query"].shape[-3], None, arrays["value"].shape[-1]), "known sizes got lost"
    model = ndx.build(arguments, {"output": output})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(**inputs: np.ndarray) -> np.ndarray:
        (result,) = session.run(None, inputs)
        return np.asarray(result)

    return model, run


def _nodes(graph: Any, loops: int = 0) -> Iterator[tuple[str, int]]:
    """Yield the kind of each node, and in how many loops it stands."""
    for node in graph.node:
        yield node.op_type, loops
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g, loops + (node.op_type == "Loop"))


def _exact(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == bool else array.astype(np.float64)


def _compare(actual: np.ndarray, expected: np.ndarray, allowed: float) -> float:
    assert actual.shape == expected.shape
    error = float(np.max(np.abs(actual - expected), initial=0.0) / np.max(np.abs(expected), initial=1e-300))
    assert error <= allowed
    return error


def _inputs(problem: Problem, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a problem by name, rounded, and its other options."""
    arrays, options = draw(problem)
    inputs = dict(zip(("query", "key", "value"), arrays, strict=True))
    inputs |= {name: options.pop(name) for name in ("scale", "key_mask") if isinstance(options[name], np.ndarray)}
    return {name: x if x.dtype == bool else x.astype(kind) for name, x in inputs.items()}, options


@pytest.mark.shows(compile="one ONNX model for all batches and lengths")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("tiles", [{}, {"query_tile": 8, "key_tile": 6}], ids=["tiles as planned", "small tiles"])
def test_one_model_for_any_batch_and_length(form: str, kind: str, tiles: dict[str, int]) -> None:
    problem = dataclasses.replace(PROBLEM, key_mask="batch, heads", scale="per head", normalise_output=True)
    inputs, options = _inputs(problem, kind)
    plan = dataclasses.replace(explain(*list(_of_unknown_lengths(inputs).values())[:3], form=form), **tiles)
    model, run = _model(attention, inputs, plan=plan, **options)
    largest = 0.0
    for batch, (queries, keys) in itertools.product(BATCHES, LENGTHS):
        sizes = {"query_batch": (batch,), "key_batch": (batch,), "value_batch": (batch,)}
        inputs, options = _inputs(dataclasses.replace(problem, query_length=queries, key_length=keys, **sizes), kind)
        actual = run(**inputs)
        assert actual.dtype == kind
        expected = attention_oracle(**{name: _exact(x) for name, x in inputs.items()}, **options)
        largest = max(largest, _compare(actual, expected, ALLOWED[kind]))
    opset = {each.domain: each.version for each in model.opset_import}
    print(
        f"ndonnx {form} {kind}: error {largest:.2e} of max|oracle|, {len([*_nodes(model.graph)])} nodes, opset {opset}"
    )
    assert opset[""] <= 21


@pytest.mark.parametrize("form", FORMS)
def test_the_loops_of_the_core_take_an_unknown_length_as_one_tile(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """As they do for a library of unknown sizes that has no adapter."""
    generic = dataclasses.replace(NDONNX, fold_tiles=loops.fold_tiles, map_tiles=loops.map_tiles)
    monkeypatch.setattr("taylorshift_core._registry._backend_for", lambda _namespace: generic)
    inputs, options = _inputs(PROBLEM, "float64")
    model, run = _model(attention, inputs, form=form, **options)
    assert "Loop" not in {kind for kind, _ in _nodes(model.graph)}
    _compare(run(**inputs), attention_oracle(**inputs, **options), ALLOWED["float64"])


@pytest.mark.parametrize(("form", "most"), [("direct", 240), ("efficient", 320)])
@pytest.mark.parametrize("head_dim", [3, 64])
def test_nodes_are_few_and_do_not_grow_with_the_head_dim(form: str, most: int, head_dim: int) -> None:
    arrays = {name: np.ones((1, 1, 2, head_dim), np.float32) for name in ("query", "key", "value")}
    model, _ = _model(attention, arrays, form=form)
    kinds = [kind for kind, _ in _nodes(model.graph)]
    print(f"ndonnx {form}: {len(kinds)} nodes, {kinds.count('Constant')} of them constants")
    assert len(kinds) <= most


def test_what_is_prepared_once_stands_outside_the_loops() -> None:
    """Keys and queries each take one square root: keys before all loops, queries in the outer of the two."""
    arrays = {name: np.ones((1, 1, 2, 4), np.float32) for name in ("query", "key", "value")}
    model, _ = _model(attention, arrays, form="direct")
    nodes = list(_nodes(model.graph))
    assert sorted(depth for kind, depth in nodes if kind == "Sqrt") == [0, 1]
    assert max(depth for _, depth in nodes) == 2


def test_memory_of_a_model_is_that_of_tiles() -> None:
    length, head_dim = 60_000, 32
    query = np.random.default_rng(0).standard_normal((1, 1, length, head_dim)).astype(np.float32)
    _, run = _model(attention, {"query": query, "key": query, "value": query}, form="efficient")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(query=query, key=query, value=query)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6  # kilobytes on Linux
    features = length * (head_dim + 1) * (head_dim + 2) // 2 * 4 / 1e6
    print(f"ndonnx: {grown:.0f} MB more at {length} tokens, whose features would be {features:.0f} MB")
    assert grown < 0.8 * features


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", range(0, 343, 31))
def test_options_in_models(form: str, number: int) -> None:
    problem = list(every_three_together())[number]
    inputs, options = _inputs(problem, "float32")
    _, run = _model(attention, inputs, form=form, **options)
    expected = attention_oracle(**{name: _exact(x) for name, x in inputs.items()}, **options)
    _compare(run(**inputs), expected, 4 * 2.0**-23 * np.sqrt(problem.terms))


@pytest.mark.parametrize(
    "rule", [{}, {"block_causal": 3}, {"prefix_length": 2}, {"block_causal": 4, "prefix_length": 1}]
)
@pytest.mark.parametrize("kind", ["float64", "float32", "float16"])
def test_causal_models_of_any_length(rule: dict[str, int], kind: str) -> None:
    inputs, options = _inputs(PROBLEM, kind)
    model, run = _model(attention, inputs, is_causal=True, **rule, **options)
    largest = 0.0
    for batch, (queries, keys) in itertools.product(BATCHES, LENGTHS):
        sizes = {"query_batch": (batch,), "key_batch": (batch,), "value_batch": (batch,)}
        inputs, _ = _inputs(dataclasses.replace(PROBLEM, query_length=queries, key_length=keys, **sizes), kind)
        seen = causal(queries, keys, block=rule.get("block_causal", 1), prefix=rule.get("prefix_length", 0))
        expected = attention_oracle(**{name: _exact(x) for name, x in inputs.items()}, allowed=seen)
        largest = max(largest, _compare(run(**inputs), expected, ALLOWED[kind]))
    print(f"ndonnx causal {rule} {kind}: error {largest:.2e} of max|oracle|, {len([*_nodes(model.graph)])} nodes")


def test_what_stands_behind_a_causal_rule_is_not_seen() -> None:
    inputs, _ = _inputs(dataclasses.replace(PROBLEM, query_length=9, key_length=9), "float32")
    _, run = _model(attention, inputs, is_causal=True)
    clean = run(**inputs)
    for name in ("key", "value"):
        inputs[name][..., 5:, :] = np.nan
    np.testing.assert_array_equal(run(**inputs)[..., :5, :], clean[..., :5, :])


def test_the_efficient_causal_form_asks_for_lengths() -> None:
    query = ndx.argument(shape=("N", 3), dtype=ndx.float32)
    with pytest.raises(OptionError, match="efficient form only where lengths are known"):
        attention(query, query, query, is_causal=True, form="efficient")


def test_a_causal_model_of_a_known_length_in_the_efficient_form() -> None:
    query, key, value = (x.astype(np.float32) for x in draw(dataclasses.replace(PROBLEM, key_length=4))[0])
    given = {"query": query, "key": key, "value": value}
    like = {name: _argument(x, ("B", *x.shape[1:])) for name, x in given.items()}
    output, state = attention(**like, is_causal=True, form="efficient", return_state=True)
    session = onnxruntime.InferenceSession(ndx.build(like, {"y": output, "s": state.sums}).SerializeToString())
    actual, sums = session.run(None, given)
    _compare(actual, attention_oracle(*map(_exact, given.values()), allowed=causal(4, 4)), 2e-6)
    _compare(sums[..., 16, -1], np.full((2, 2), 4.0), 0.0)


def test_no_gradients_and_it_says_so() -> None:
    x = ndx.argument(shape=("N", 3), dtype=ndx.float32)
    with pytest.raises(BackendError, match=r"arrays of ndonnx have no gradients: .*forwards"):
        attention_vjp(x, x, x)
    with pytest.raises(BackendError, match=r"arrays of ndonnx have no gradients: .*forwards"):
        attention_jvp((x, x, x), (x, x, x))


def test_a_state_made_by_one_model_is_read_by_another() -> None:
    query, key, value = (x.astype(np.float32) for x in draw(PROBLEM)[0])
    like = _of_unknown_lengths({"query": query, "key": key, "value": value})
    state = summarise(like["key"], like["value"])
    assert state.sums.shape[-3:] == (2, 17 * 18 // 2, 9)
    writer = ndx.build({name: like[name] for name in ("key", "value")}, {"sums": state.sums})
    given = ndx.argument(shape=("B", *state.sums.shape[1:]), dtype=ndx.float32)
    output = dataclasses.replace(state, sums=given).attend(like["query"])
    reader = ndx.build({"query": like["query"], "sums": given}, {"output": output})
    write, read = (onnxruntime.InferenceSession(model.SerializeToString()) for model in (writer, reader))
    sums = write.run(None, {"key": key[..., :2, :], "value": value[..., :2, :]})[0]
    sums = sums + write.run(None, {"key": key[..., 2:, :], "value": value[..., 2:, :]})[0]
    actual = read.run(None, {"query": query, "sums": sums})[0]
    _compare(actual, attention_oracle(*map(_exact, (query, key, value))), 2e-6)


def test_weights_in_a_model() -> None:
    query, key, value = (x.astype(np.float32) for x in draw(PROBLEM)[0])
    like = _of_unknown_lengths({"query": query, "key": key, "value": value})
    model = ndx.build(
        {name: like[name] for name in ("query", "key")}, {"w": attention_weights(like["query"], like["key"])}
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (actual,) = session.run(None, {"query": query[:1], "key": key[:1, :, 1:]})
    _compare(actual, attention_weights_oracle(_exact(query[:1]), _exact(key[:1, :, 1:])), 2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_with_values_compute_at_once(form: str) -> None:
    arrays = draw(PROBLEM)[0]
    inputs = [NDONNX.from_numpy(x) for x in arrays]
    actual = attention(*inputs, form=form)
    assert isinstance(actual, ndx.Array)
    _compare(NDONNX.to_numpy(NDONNX.wait(actual)), attention_oracle(*arrays), 1e-14)


def test_arrays_without_values_say_so() -> None:
    lazy = attention(*[ndx.argument(shape=("N", 3), dtype=ndx.float32)] * 3)
    with pytest.raises(ValueError, match="no propagated value"):
        NDONNX.to_numpy(lazy)


def _features(rows: np.ndarray) -> np.ndarray:
    """Return the features of [x / |x|, 1] for each row x, one row a token."""
    units = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    columns = np.swapaxes(np.concatenate([units, np.ones_like(units[..., :1])], axis=-1), -1, -2)
    return np.swapaxes(feature_tile(np, columns, 0, n_offsets(columns.shape[-2])), -1, -2)


def _packed(array: np.ndarray) -> np.ndarray:
    """Return (batch, heads, tokens, columns) as the operator wants it: (batch, tokens, heads * columns)."""
    batch, heads, tokens, columns = array.shape
    return np.swapaxes(array, 1, 2).reshape((batch, tokens, heads * columns)).astype(np.float32)


def test_linear_attention_of_onnx_is_causal_attention_of_features() -> None:
    """ONNX has had an operator since version 27 that keeps our state: fed with features and [value, 1], it needs one division."""
    query, key, value = (
        x.astype(np.float32) for x in draw(dataclasses.replace(PROBLEM, query_length=9, key_length=9))[0]
    )
    width, heads, kv_heads = query.shape[-1] + 1, query.shape[1], key.shape[1]
    weights = apply_multiplicity(np, np.ones((n_features(width), 1), np.float32), width)[:, 0]
    weights[width - 1] += 1  # gamma, times the sum of [value, 1]
    given = {
        "q": _packed(_features(query) * weights),
        "k": _packed(_features(key)),
        "v": _packed(np.concatenate([value, np.ones_like(value[..., :1])], axis=-1)),
    }
    options = {"q_num_heads": heads, "kv_num_heads": kv_heads, "update_rule": "linear", "scale": 1.0}
    node = onnx.helper.make_node("LinearAttention", list(given), ["sums", "state"], **options)
    results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("sums", "state")]
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape) for name, x in given.items()]
    graph = onnx.helper.make_graph([node], "causal", inputs, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 27)], ir_version=13)
    packed, state = onnxruntime.InferenceSession(model.SerializeToString()).run(None, given)
    sums = np.swapaxes(packed.reshape((*packed.shape[:2], heads, -1)), 1, 2)
    _compare(
        sums[..., :-1] / sums[..., -1:], attention_oracle(*map(_exact, (query, key, value)), allowed=causal(9, 9)), 2e-6
    )
    _compare(state, summarise(_exact(key), _exact(value)).sums, 2e-6)
