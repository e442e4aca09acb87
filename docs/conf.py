"""Sphinx configuration: `python -m nox -s docs`."""

from importlib.metadata import version as version_of

project = "taylorshift-core"
author = "The taylorshift-core authors"
release = version_of("taylorshift-core")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # `query` is an argument here, whichever class has a field of that name

html_theme = "furo"
html_title = f"taylorshift-core {release}"
autodoc_typehints = "none"
napoleon_google_docstring = False
