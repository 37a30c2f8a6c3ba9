"""docs/tus-conformance.md is complete: every sentence of the specification, each with a test."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "tus-conformance.md"

#: How often tus 1.0.0 says each of these words, by section in its order (RFC 2119).
SPECIFICATION = {
    "Core Protocol": {"MUST": 1},
    "Upload-Offset": {"MUST": 1},
    "Upload-Length": {"MUST": 1},
    "Tus-Version": {"MUST": 2},
    "Tus-Resumable": {"MUST": 4, "MUST NOT": 1},
    "Tus-Extension": {"MUST": 2},
    "Tus-Max-Size": {"MUST": 1, "SHOULD": 1},
    "X-HTTP-Method-Override": {"MUST": 3, "SHOULD": 1},
    "HEAD": {"MUST": 3, "SHOULD": 2},
    "PATCH": {"MUST": 6, "SHOULD": 7},
    "OPTIONS": {"MUST": 2, "SHOULD NOT": 1},
    "Protocol Extensions": {"SHOULD": 1},
    "Creation": {"MUST": 1, "SHOULD": 1},
    "Upload-Defer-Length": {"MUST": 2},
    "Upload-Metadata": {"MUST": 4, "MUST NOT": 2, "SHOULD": 2},
    "POST": {"MUST": 10, "MUST NOT": 1},
    "Creation With Upload": {"MUST": 4, "MUST NOT": 1, "SHOULD": 3},
    "Expiration": {"MUST": 1},
    "Upload-Expires": {"MUST": 3, "SHOULD": 4},
    "Checksum": {"MUST": 7, "MUST NOT": 1},
    "Tus-Checksum-Algorithm": {"MUST": 1},
    "Upload-Checksum": {"MUST": 1},
    "Termination": {"MUST": 1},
    "DELETE": {"MUST": 1, "SHOULD": 2},
    "Concatenation": {"MUST": 12, "MUST NOT": 2, "SHALL NOT": 1, "SHOULD": 2, "SHOULD NOT": 2},
    "Upload-Concat": {"MUST": 3, "MUST NOT": 1},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One sentence of the specification."""

    section: str
    word: str
    sentence: str
    tests: str
    result: str


def rows() -> list[Row]:
    lines = [
        line for line in DOCUMENT.read_text().splitlines() if re.match(r"\| (?!Section)", line)
    ]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


@cache
def functions(module: Path) -> frozenset[str]:
    """The names of a test module's functions."""
    tree = ast.parse(module.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_sentence_of_the_specification_has_a_row() -> None:
    found = {section: Counter[str]() for section in dict.fromkeys(row.section for row in rows())}
    for row in rows():
        found[row.section][row.word] += 1
    assert found == SPECIFICATION
    assert list(found) == list(SPECIFICATION)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.section} {row.word}")
def test_a_sentence_has_tests_that_exist_and_a_result(row: Row) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row.tests)
    assert named
    assert ", ".join(f"`{module}::{name}`" for module, name in named) == row.tests
    for module, name in named:
        (path,) = (ROOT / "tests").rglob(module)
        assert name in functions(path), f"{module} has no {name}"
    assert row.sentence
    assert row.result
