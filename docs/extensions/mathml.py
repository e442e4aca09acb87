"""Formulas as MathML, which browsers draw in the colour of the text: no scripts, and nothing to fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_SPACE = "http://www.w3.org/1998/Math/MathML"
ET.register_namespace("", _SPACE)


def mathml(tex: str, *, as_block: bool = False) -> str:
    """Return a formula in MathML."""
    text = tex2mathml(tex, as_block=as_block).replace("&ApplyFunction;", "\N{FUNCTION APPLICATION}")  # no entity of XML
    tree = ET.fromstring(text)
    for node in tree.iter(f"{{{_SPACE}}}munderover"):
        if node[2].get("stretchy") == "false":
            _beside(node)
    return ET.tostring(tree, encoding="unicode")


def _beside(node: ET.Element) -> None:
    """Put the index of an accented letter beside it: docutils takes it for a limit, and puts it below."""
    letter, index, accent = node
    accented = ET.Element(f"{{{_SPACE}}}mover", accent="true")
    accented.extend((letter, accent))
    node.tag = f"{{{_SPACE}}}msub"
    node[:] = accented, index


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
