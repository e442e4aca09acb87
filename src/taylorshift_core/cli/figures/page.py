"""The report as one HTML file that needs no other, readable on a light and on a dark ground."""

from __future__ import annotations

import json
import re
from html import escape
from typing import TYPE_CHECKING, Any

from taylorshift_core.cli.figures.machine import in_one_line
from taylorshift_core.cli.figures.render import svg, variables
from taylorshift_core.cli.figures.theme import DARK, LIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core.cli.figures.figure import Measured, Row

_STYLE = f"""
:root {{ color-scheme: light dark; {variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}
body {{ background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; margin: 0 auto;
  max-width: 62rem; padding: 1rem 1.2rem 4rem; }}
a {{ color: var(--c0); }}
h2 {{ margin-top: 3.5rem; line-height: 1.3; }}
figure {{ margin: 1rem 0; }}
figure svg {{ width: 100%; height: auto; }}
figcaption, .small {{ font-size: .88rem; }}
code {{ font-size: .92em; overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; max-height: 26rem; }}
table {{ border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--faint); padding: .15rem .6rem; text-align: right; white-space: nowrap; }}
th {{ position: sticky; top: 0; background: var(--ground); }}
"""
_PAPER = "https://arxiv.org/abs/2403.02920"


def page(found: Sequence[Measured], command: str) -> str:
    """Return the whole report.

    Parameters
    ----------
    found
        The figures, in order.
    command
        What measures one figure again, with NAME for its name.
    """
    contents = "\n".join(
        f'<li><a href="#{each.figure.name}">{escape(each.figure.name)}</a>: {escape(each.finding)}</li>'
        for each in found
    )
    measured = json.dumps({each.figure.name: list(each.rows) for each in found}).replace("</", "<\\/")
    parts = "\n".join(_section(each, command) for each in found)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TaylorShift measured on this machine</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>TaylorShift measured</h1>
<p>The analysis of the paper <a href="{_PAPER}">TaylorShift (Nauen, Palacio, Dengel, 2024)</a>, measured with
taylorshift-core on one machine. Titles say what the numbers of this run say.</p>
<p class="small">{escape(_versions(found[0].about))}</p>
</header>
<nav aria-label="Figures"><h2>Figures</h2><ol>
{contents}
</ol></nav>
<main>
{parts}
</main>
<script type="application/json" id="measured">{measured}</script>
</body>
</html>
"""


def caption(measured: Measured, command: str) -> list[str]:
    """Return what stands below a figure: spread, machine, versions and command, a line each."""
    lines = [f"Spread: {measured.figure.spread}."]
    if measured.done < measured.planned:
        lines.append(
            f"The time was up after {measured.done} of {measured.planned} measurements; the others are left out."
        )
    libraries = sorted(
        {row["contestant"].split()[0] for row in measured.rows if "contestant" in row} & {*measured.about["versions"]}
    )
    names = tuple(dict.fromkeys(("taylorshift-core", "numpy", *libraries, "numba")))
    return [
        *lines,
        f"{in_one_line(measured.about, names)}; {measured.when}.",
        f"Again: {command.replace('NAME', measured.figure.name)}",
    ]


def alternative(measured: Measured) -> str:
    """Return what the picture shows, for those who do not see it."""
    return f"{measured.finding}. The numbers are in the table below the picture."


def _section(measured: Measured, command: str) -> str:
    name = measured.figure.name
    *lines, again = caption(measured, command)
    below = "<br>".join(map(escape, lines))
    words, _, typed = again.partition(": ")
    return f"""<section id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{escape(measured.finding)}</h2>
<figure>
<div role="img" aria-label="{escape(alternative(measured))}">{svg(measured)}</div>
<figcaption><p>{_with_code(measured.figure.about)}</p>
<p>{below}<br>{words}: <code>{escape(typed)}</code></p></figcaption>
</figure>
<details><summary>Numbers</summary><div class="scroll" tabindex="0">{_table(measured.rows)}</div></details>
</section>"""


def _with_code(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name, entry in row.items() if _shown(entry)))
    head = "".join(f'<th scope="col">{escape(_unit(name))}</th>' for name in columns)
    lines = ["".join(f"<td>{escape(text_of(row.get(name)))}</td>" for name in columns) for row in rows]
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )


def _unit(name: str) -> str:
    return {"low": "lower quartile", "high": "upper quartile", "work": "operations or bytes"}.get(name, name)


def _shown(entry: object) -> bool:
    return not isinstance(entry, list)


def text_of(entry: object) -> str:
    """Return an entry of a table: four digits of a fraction, all of a whole number."""
    if entry is None or not _shown(entry):
        return "–"
    return f"{entry:.4g}" if isinstance(entry, float) else str(entry)


def _versions(about: dict[str, Any]) -> str:
    pools = {f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads" for pool in about["threads"]}
    variables_set = ", ".join(f"{name}={text}" for name, text in about["variables"].items()) or "none set"
    return (
        f"{in_one_line(about, tuple(about['versions']))}. Threads: {'; '.join(sorted(pools)) or 'unknown'}. "
        f"Variables: {variables_set}."
    )
