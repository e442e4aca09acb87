"""``{picture} NAME``: figures/NAME-light.svg on light pages, figures/NAME-dark.svg on dark ones, and one caption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class Picture(SphinxDirective):
    """A figure in two versions, of which the theme shows one; the content is its caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the figure."""
        if "alt" not in self.options:
            msg = "a picture must say in :alt: what it shows, for those who cannot see it"
            raise self.error(msg)
        figure = nodes.figure()
        for ground in ("light", "dark"):
            uri = f"figures/{self.arguments[0]}-{ground}.svg"
            figure += nodes.image(uri=uri, alt=self.options["alt"], classes=[f"only-{ground}"])
        caption, *more = self.parse_content_to_nodes() or [None]
        if caption is None or more:
            msg = "a picture must have one paragraph as its caption"
            raise self.error(msg)
        figure += nodes.caption(caption.rawsource, "", *caption.children)
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
