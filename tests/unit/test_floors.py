"""The house has floors: a module imports only from below, or from its own package.

Read from the sources with ``ast``, imports inside functions included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "wsgi.py", *sorted((ROOT / "app").rglob("*.py"))]
}

#: Package or module → floor. A name covers everything below it; the longest one counts.
FLOORS = {
    "app.errors": 0,
    "app.settings": 0,
    "app.setting_defaults": 0,
    "app.setting_types": 0,
    "app.s3_settings": 0,
    "app.smb_settings": 0,
    "app.storage_settings": 0,
    "app.logs": 0,
    "app.metrics": 0,
    "app.buffers": 0,
    "app.native_threads": 0,
    "app.version": 0,
    "app.domain": 0,
    "app.storage": 1,
    "app.ingest": 2,
    "app.ledger": 2,
    "app.uploads": 3,
    "app.protocols": 4,
    "app.dashboard": 4,
    "app.jobs": 4,
    "app.cli": 4,
    "app.wiring": 5,
    "app.worker": 5,
    "wsgi": 5,
}

#: The factory is ``app`` itself: its submodules are not part of it.
FACTORY = "app"

#: On one floor: who may import whom.
NEIGHBOURS = {("app.cli", "app.jobs"), ("app.domain", "app.errors")}

#: Library → the only package that may import it.
ONLY_IN = {
    **dict.fromkeys(("sqlalchemy", "flask_sqlalchemy", "flask_migrate", "alembic"), "app.ledger"),
    **dict.fromkeys(("boto3", "botocore", "smbprotocol", "smbclient"), "app.storage"),
}

#: The domain is pure: neither a framework nor the network nor a database.
NOT_IN_DOMAIN = {"flask", "werkzeug", "gevent", "gunicorn", "sqlalchemy", "httpx", "httpcore"}

#: What knows the current request. Services take plain values.
REQUEST_NAMES = {"request", "g", "current_app", "session"}
KNOWS_REQUESTS = ["app.protocols", "app.dashboard", FACTORY]

ECHOES = {"print", "click.echo", "click.secho"}

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60


def _home(module: str) -> str:
    """Return the package or module of ``FLOORS`` that ``module`` belongs to."""
    names = [name for name in FLOORS if module == name or module.startswith(f"{name}.")]
    if names:
        return max(names, key=len)
    return FACTORY if module == FACTORY else f"{module} (on no floor: add it to FLOORS)"


def _floor(home: str) -> int:
    return FLOORS.get(home, max(FLOORS.values()))


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and imported name ("" for a whole module) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                # ``from app.ledger import models`` imports a module, not a name.
                if f"{base}.{alias.name}" in SOURCES or f"{base}.{alias.name}" in FLOORS:
                    yield node.lineno, f"{base}.{alias.name}", ""
                else:
                    yield node.lineno, base, alias.name


def _import_problems(module: str, imported: str, name: str) -> Iterator[str]:
    home, library = _home(module), imported.split(".")[0]
    if library in {"app", "wsgi"}:
        target = _home(imported)
        below = _floor(target) < _floor(home)
        beside = 0 == _floor(target) == _floor(home) and home != "app.domain"
        top = _floor(home) == max(FLOORS.values())
        if not (home == target or below or beside or top or (home, target) in NEIGHBOURS):
            yield f"{home} must not import {target}"
        return
    if library in ONLY_IN and home != ONLY_IN[library]:
        yield f"{library} belongs to {ONLY_IN[library]}"
    if home == "app.domain" and library in NOT_IN_DOMAIN:
        yield f"the domain is pure: no {library}"
    whole_flask = imported == "flask" and not name
    if home not in KNOWS_REQUESTS and library == "flask" and (whole_flask or name in REQUEST_NAMES):
        yield f"flask's {name or 'whole module'} belongs to {', '.join(KNOWS_REQUESTS)}"


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what ``module`` does against the rules, one ``module:line: problem`` each."""
    tree = ast.parse(source)
    home = _home(module)
    found = [
        f"{module}:{line}: {problem}"
        for line, imported, name in _imports(tree, module, is_package)
        for problem in _import_problems(module, imported, name)
    ]
    if home != FACTORY and home not in FLOORS:
        found.append(home)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ECHOES and home != "app.cli":
            found.append(f"{module}:{node.lineno}: only app.cli echoes; log it instead")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{module}:{node.lineno}: {node.name} has {lines} lines")
    if (lines := len(source.splitlines())) > MAX_MODULE_LINES:
        found.append(f"{module}: {lines} lines; the limit is {MAX_MODULE_LINES}")
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_keeps_to_its_floor(module: str) -> None:
    path = SOURCES[module]
    assert violations(module, path.read_text(), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app.storage.local", "from app.ledger import models"),
        ("app.storage.local", "from app import ledger"),
        ("app.storage.local", "from ..ledger.models import Upload"),
        ("app.storage.local", "def f():\n    import app.uploads.service"),
        ("app.ingest.body", "from app.ledger.uploads import find"),
        ("app.ledger.uploads", "import app.ingest"),
        ("app.uploads.service", "from app.jobs.runner import start"),
        ("app.jobs.runner", "from app.cli import group"),
        ("app.protocols.native", "from app.dashboard.pages import page"),
        ("app.domain.parts", "from app.settings import Settings"),
        ("app.settings", "from app.storage.base import Storage"),
        ("app.protocols.native", "from app import create_app"),
        ("app.uploads.service", "from wsgi import app"),
        ("app.uploads.service", "from sqlalchemy import select"),
        ("app.wiring", "import flask_sqlalchemy"),
        ("app.jobs.finalize", "import boto3"),
        ("app.domain.parts", "import gevent.pool"),
        ("app.domain.parts", "from flask import Blueprint"),
        ("app.uploads.service", "from flask import g"),
        ("app.cli.uploads", "from flask import current_app"),
        ("app.uploads.service", "import flask"),
        ("app.uploads.service", "print('here')"),
        ("app.jobs.sweep", "import click\nclick.echo('swept')"),
        ("app.nowhere", "import os"),
        ("app.uploads.service", "x = 1\n" * 301),
        ("app.uploads.service", "def f():\n" + "    x = 1\n" * 60),
    ],
)
def test_a_module_that_breaks_a_rule_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app.domain.names", "from app.errors import InvalidName\nfrom app.domain import parts"),
        ("app.logs", "from app.settings import Settings"),
        ("app.settings", "from app import setting_types"),
        ("app.storage.local", "from .base import Storage\nimport boto3"),
        ("app.ledger.uploads", "from sqlalchemy import select\nfrom .models import Upload"),
        ("app.cli.jobs", "import click\nfrom app.jobs.runner import run\nclick.echo('done')"),
        ("app.cli.uploads", "from flask.cli import AppGroup"),
        ("app.protocols.native", "from flask import request\nfrom app.uploads import service"),
        ("app", "from flask import Flask, g\nfrom app.ledger.models import db"),
        ("app.worker", "from app.wiring import Wiring\nfrom app.jobs import runner"),
        ("wsgi", "from app import create_app"),
        ("app.uploads.service", "x = 1\n" * 300),
        ("app.uploads.service", "def f():\n" + "    x = 1\n" * 59),
    ],
)
def test_a_module_that_keeps_the_rules_is_left_alone(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_a_package_may_import_its_own_modules_relatively() -> None:
    assert violations("app.storage", "from .local import LocalStorage", is_package=True) == []
