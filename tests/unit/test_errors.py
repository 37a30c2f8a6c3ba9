"""The tree of errors: as it is drawn, with codes that clients may compare."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from app import errors

_LINE = re.compile(r" {4}(?P<rails>[│ ]*)[├└]── (?P<name>\w+)")

#: Of one rail in the drawing: a level of the tree.
_RAIL_CHARACTERS = 4


def drawn() -> list[tuple[str, str]]:
    """Return what the docstring draws: error and base, top to bottom."""
    found, path = [], ["LonghaulError"]
    for line in map(_LINE.match, (errors.__doc__ or "").splitlines()):
        if line is not None:
            level = len(line["rails"]) // _RAIL_CHARACTERS + 1
            path[level:] = [line["name"]]
            found.append((line["name"], path[level - 1]))
    return found


def declared() -> list[type[errors.LonghaulError]]:
    """Return the errors of the module in their order."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, errors.LonghaulError)]


def test_the_tree_is_drawn_as_it_is() -> None:
    pairs = [(kind.__name__, kind.__base__.__name__) for kind in declared() if kind.__base__]
    assert sorted(drawn()) == sorted(pairs[1:])


def test_every_error_has_a_code_of_its_own() -> None:
    codes = Counter(kind.code for kind in declared())
    assert set(codes.values()) == {1}


def raised_without_words(module: Path) -> Iterator[str]:
    """Yield the names of errors that a module raises, or returns, without saying more."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            yield node.exc.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            yield node.func.id


def test_every_error_that_is_raised_without_words_has_some() -> None:
    kinds = {kind.__name__: kind for kind in declared()}
    modules = sorted(Path(errors.__file__).parent.rglob("*.py"))
    bare = {name for module in modules for name in raised_without_words(module)} & kinds.keys()
    assert {"UploadNotFound", "LeaseLost", "StorageFull"} <= bare
    assert [name for name in sorted(bare) if not kinds[name]().message] == []
