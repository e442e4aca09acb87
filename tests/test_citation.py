"""The citation file and the page that says the same: the paper first, then this library at the version that it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import taylorshift_core

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")


@pytest.fixture
def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def bibtex(kind: str) -> dict[str, str]:
    """Return the fields of an entry on the page, without the braces that keep capitals."""
    (entry,) = re.findall(rf"^@{kind}\{{\w+,\n(.*?)^\}}$", PAGE, re.DOTALL | re.MULTILINE)
    fields = re.findall(r"^ +(\w+) += \{(.*?)\},?$", entry, re.DOTALL | re.MULTILINE)
    return {name: " ".join(re.sub(r"[{}]", "", text).split()) for name, text in fields}


def names(people: list[dict[str, str]]) -> str:
    return " and ".join(f"{each['family-names']}, {each['given-names']}" for each in people)


def test_the_library_is_cited_at_its_version(citation: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = bibtex("software")
    (author,) = citation["authors"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == entry["version"] == taylorshift_core.__version__
    assert citation["title"] == project["name"]
    assert (
        entry["title"]
        == f"{project['name']}: {project['description']}"
        == f"{citation['title']}: {citation['abstract'][:-1]}"
    )
    assert (author["name"], citation["license"]) == (project["authors"][0]["name"], project["license"])
    assert entry["author"] == author["name"]
    assert citation["keywords"] == project["keywords"]


def test_the_paper_is_cited_first(citation: dict[str, Any]) -> None:
    paper, entry = citation["preferred-citation"], bibtex("inproceedings")
    assert PAGE.index("@inproceedings") < PAGE.index("@software")
    assert (
        paper["title"]
        == entry["title"]
        == (
            "TaylorShift: Shifting the Complexity of Self-Attention from Squared to Linear (and Back) using Taylor-Softmax"
        )
    )
    assert names(paper["authors"]) == entry["author"]
    assert names(paper["authors"]) == "Nauen, Tobias Christian and Palacio, Sebastian and Dengel, Andreas"
    assert names(paper["editors"]) == entry["editor"]
    assert f"{paper['collection-title']}. {paper['conference']['name']}" == entry["booktitle"]
    assert (paper["publisher"]["name"], str(paper["year"])) == (entry["publisher"], entry["year"])
    assert f"{paper['start']}--{paper['end']}" == entry["pages"]
    assert paper["doi"] == entry["doi"]
    assert paper["identifiers"][0]["value"] == entry["note"] == "arXiv:2403.02920"
    assert paper["url"].endswith(entry["note"].removeprefix("arXiv:"))
