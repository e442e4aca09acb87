"""Colours and marks of the figures, for a light and for a dark ground.

The colours are those of Okabe and Ito, darkened or lightened until they stand out from the ground; contestants also
differ in marker and line, so that no colour has to be told from another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MARKS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("X", "--"), ("P", "-."), ("*", ":"))
_KNOWN = {  # contestants who are in several figures look the same in all
    "numpy efficient": 0,
    "numpy direct": 1,
    "softmax (NumPy)": 2,
    "torch SDPA": 3,
    "torch efficient": 4,
    "published efficient (torch)": 5,
}


@dataclass(frozen=True)
class Theme:
    """A ground and what is drawn on it."""

    name: str
    ground: str
    ink: str
    faint: str
    colours: tuple[str, ...]

    @property
    def settings(self) -> Any:
        """What matplotlib calls it."""
        ink = dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor"),
            self.ink,
        )
        ground = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.ground)
        return (
            ink
            | ground
            | {
                "grid.color": self.faint,
                "grid.linewidth": 0.6,
                "legend.facecolor": self.ground,
                "legend.edgecolor": "none",
                "legend.framealpha": 0.85,
                "legend.fontsize": 8,
                "font.size": 9,
                "axes.titlesize": 10,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "svg.fonttype": "path",
            }
        )

    def style(self, name: str, index: int = 0) -> dict[str, Any]:
        """Return colour, marker and line of a contestant; those who are not known are told by `index`."""
        place = _KNOWN.get(name, index)
        marker, line = _MARKS[place % len(_MARKS)]
        return {"color": self.colours[place % len(self.colours)], "marker": marker, "linestyle": line, "label": name}


LIGHT = Theme(
    "light",
    ground="#ffffff",
    ink="#1f2328",
    faint="#c8ccd1",
    colours=("#0072b2", "#c04f00", "#00805c", "#a8407f", "#8a6100", "#5b6670"),
)
DARK = Theme(
    "dark",
    ground="#16191d",
    ink="#e6e9ec",
    faint="#43494f",
    colours=("#56b4e9", "#ff8c4a", "#2ec79b", "#e58cc4", "#f0c34a", "#a9b4be"),
)
