"""Sphinx configuration: `python -m nox -s docs`, which draws the figures first."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "taylorshift-core"
author = project_copyright = "The taylorshift-core authors"
release = version_of("taylorshift-core")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "picture"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # `query` is an argument here, whichever class has a field of that name

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"taylorshift-core {release}"
html_static_path = ["static"]
html_css_files = ["pages.css"]
autodoc_typehints = "none"
napoleon_google_docstring = False
