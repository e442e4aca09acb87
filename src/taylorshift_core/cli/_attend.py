"""``taylorshift attend``: attention from files to a file, also where they are longer than memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import explain
from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._console import progress, say
from taylorshift_core.cli._errors import CommandError
from taylorshift_core.cli._inputs import Inputs, read_inputs
from taylorshift_core.cli._output import check_output, npy_writer
from taylorshift_core.cli._parser import Parser, positive
from taylorshift_core.cli._plans import facts_of, stand_in
from taylorshift_core.cli._tiles import attend_tiles, batch_shape, tile_length, total_tokens

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from taylorshift_core import Plan

EXAMPLES = (
    ("taylorshift attend query.npy key.npy value.npy -o output.npy", "three arrays, perhaps longer than memory"),
    ("taylorshift attend arrays.npz -o output.npy --force --tile 1000", "one file, read 1000 tokens at a time"),
    ("taylorshift attend arrays.npz -o sums.npy --checkpoint sums.part", "started again after a stop, it goes on"),
)
_ABOUT = """Compute attention from files and write it to an .npy file, a tile at a time.

The input is one .npz or .safetensors file with arrays named query, key, value and perhaps key_mask, or three .npy
files in the order query, key, value. Shapes are those of taylorshift_core.attention: (..., heads, length, dim).
Arrays are memory-mapped, so they may be longer than memory; the members of a compressed .npz are read whole
(numpy.savez does not compress, numpy.savez_compressed does). The direct form keeps the keys and values of one batch
entry in memory, the efficient form only their sums. Sums, and so results, are those of NumPy on this machine.
With --checkpoint the sums of the keys are saved now and then: a run that was killed and is started again with the same
words goes on from there, and writes the same bits. bfloat16 and narrower types of .safetensors files do not exist in
NumPy and are refused. Pickles are never loaded."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "attend", help="attention from files to a file, longer than memory", description=_ABOUT
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="input", help="one .npz or .safetensors, or three .npy")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .npy file to write")
    parser.add_argument("--key-mask", type=Path, metavar="FILE", help="boolean .npy file, True = attend")
    parser.add_argument("--form", choices=("auto", "direct", "efficient"), default="auto", help="default: the cheaper")
    parser.add_argument("--scale", type=float, help="default 1, or 1/sqrt(head_dim) with --no-normalise")
    parser.add_argument("--no-normalise", action="store_true", help="take rows of query and key at their own length")
    parser.add_argument("--normalise-output", action="store_true", help="multiply by sqrt(n_attended / head_dim)")
    parser.add_argument(
        "--tile", type=positive, metavar="TOKENS", help="tokens read at a time (default: 16 MiB of them)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="keep the sums of the keys there; if killed, go on from them"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing output")
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Attend, and say what was written."""
    check_output(arguments.output, (".npy",), force=arguments.force)
    inputs = read_inputs(arguments.inputs, arguments.key_mask)
    options: dict[str, Any] = {
        "scale": arguments.scale,
        "normalise": not arguments.no_normalise,
        "normalise_output": arguments.normalise_output,
    }
    form = "efficient" if arguments.checkpoint and arguments.form == "auto" else arguments.form
    if arguments.checkpoint and form == "direct":
        msg = "--checkpoint keeps the sums of the efficient form; leave out --form direct"
        raise CommandError(msg)
    plan = _plan(inputs, form, options)
    query, value = inputs.query, inputs.value
    shape = (*batch_shape(inputs), *query.shape[-3:-1], value.shape[-1])
    dtype = query.dtype.newbyteorder("=")
    # Infinities and NaN in the files propagate as IEEE arithmetic does; NumPy need not warn of them.
    with np.errstate(all="ignore"), progress() as bar, npy_writer(arguments.output, shape, dtype) as writer:
        task = bar.add_task("tokens", total=total_tokens(inputs, plan.form))
        tile = arguments.tile or tile_length(inputs)
        advance = partial(bar.advance, task)
        attend_tiles(inputs, writer, plan.form, tile, advance, arguments.checkpoint, **options)
    written = {"output": str(arguments.output), "dtype": str(dtype), "shape": list(shape)}
    return Answer(written | {"plan": facts_of(plan)}, _show)


def _show(facts: Mapping[str, Any]) -> None:
    plan, shape = facts["plan"], tuple(facts["shape"])
    say(f"{facts['output']}: {facts['dtype']} {shape}, {plan['form']} form: {plan['reason']}")


def _plan(inputs: Inputs, form: str, options: dict[str, Any]) -> Plan:
    """Check everything before any work: arrays of the same shapes and dtypes, without contents, stand in for the files."""
    arrays = (inputs.query, inputs.key, inputs.value)
    stand_ins = [stand_in(array.shape, array.dtype.newbyteorder("=")) for array in arrays]
    mask = None if inputs.key_mask is None else stand_in(inputs.key_mask.shape, inputs.key_mask.dtype)
    return explain(*stand_ins, form=form, key_mask=mask, **options)
