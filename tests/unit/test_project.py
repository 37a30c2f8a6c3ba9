"""What the project says of itself is true: settings, dependencies, targets, scripts."""

from __future__ import annotations

import ast
import configparser
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from gunicorn.config import Config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.settings import ALIASES, Settings, load_settings
from tests.harness.server import Server

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name.upper() for name in Settings.model_fields]

#: Their defaults depend on the machine, on the terminal or on other settings.
COMPUTED = {
    "BIND_ADDR",
    "DATABASE_URL",
    "LOG_FORMAT",
    "S3_REQUEST_CHECKSUMS",
    "TEMP_STORAGE_PATH",
    "WORKERS",
}

#: By default nothing.
EMPTY = {
    "ANONYMOUS_PROTOCOLS",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "BASE_URL",
    "RESUMABLE_PARAMETERS",
    "S3_ENDPOINT",
    "SMB_DOMAIN",
    "SMB_PASS",
    "SMB_PATH",
    "SMB_USER",
    "TRUSTED_PROXIES",
}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, and an environment without settings."""
    for name in os.environ:
        if name.lower() in Settings.model_fields or name in ALIASES:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    found = [re.fullmatch(r"(?:# )?([A-Z0-9_]+)=(.*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def declared() -> list[Requirement]:
    """The requirements of setup.cfg, those of its extras included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    words = [line.strip() for text in lists for line in text.splitlines()]
    return [Requirement(word) for word in words if word and not word.startswith("#")]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_readme_has_every_setting_in_its_table() -> None:
    rows = re.findall(r"(?m)^\| `([A-Z][A-Z0-9_]*)` \|", (ROOT / "README.md").read_text())
    assert [name for name in NAMES if name not in rows] == []


def test_env_example_explains_every_setting_and_no_other() -> None:
    assert sorted(env_example()) == sorted(NAMES)
    text = (ROOT / ".env.example").read_text()
    for name in NAMES:
        assert re.search(rf"(?m)^# .+[.:].*\n(?:# )?{name}=", text), f"{name} is not explained"
    for alias in ALIASES:
        assert alias in text


def test_env_example_states_the_defaults_of_the_code(bare: Path) -> None:
    secrets = {"API_KEY": "k" * 32, "JWT_SECRET": "s" * 32}
    stated = env_example() | secrets
    (bare / "stated").write_text("".join(f"{name}={value}\n" for name, value in stated.items()))
    (bare / "bare").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    assert load_settings("stated") == load_settings("bare")
    assert {name for name in NAMES if not stated[name]} <= COMPUTED | EMPTY


def test_every_requirement_is_pinned_and_fits_its_pin() -> None:
    pinned = pins()
    for requirement in declared():
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_pins_are_complete_down_to_the_last_dependency() -> None:
    pinned, seen = set(pins()), set()
    queue = declared()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        for needed in importlib.metadata.requires(name) or []:
            below = Requirement(needed)
            extras = requirement.extras or {""}
            if below.marker is None or any(below.marker.evaluate({"extra": e}) for e in extras):
                assert canonicalize_name(below.name) in pinned, f"{name} needs {needed}"
                if below.name not in seen:
                    seen.add(below.name)
                    queue.append(below)


def test_every_library_the_app_imports_is_declared() -> None:
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    packages = importlib.metadata.packages_distributions()
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported = {node.module.split(".")[0]}
            else:
                continue
            for library in imported - sys.stdlib_module_names - {"app", "_typeshed"}:
                origins = {canonicalize_name(name) for name in packages.get(library, [library])}
                # pydantic_core is a part of pydantic, in a distribution of its own
                origins |= {"pydantic"} if library == "pydantic_core" else set()
                assert origins & names, f"{path.relative_to(ROOT)} imports {library}"


@pytest.mark.parametrize("directory", [".", "bench/node"])
def test_packages_from_npm_are_pinned_and_locked(directory: str) -> None:
    package = json.loads((ROOT / directory / "package.json").read_text())
    locked = json.loads((ROOT / directory / "package-lock.json").read_text())["packages"]
    named = package.get("dependencies", {}) | package.get("devDependencies", {})
    assert named
    for name, version in named.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry for path, entry in locked.items() if path)


def test_make_lists_its_targets_by_itself() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = re.findall(r"(?m)^make (\w+) +\S", listed)
    assert targets == [
        *("help", "run", "dev", "test", "lint", "localstack", "bench", "assets", "clean")
    ]


def init_sh(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "deploy/init.sh")],
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
    )


def test_init_sh_writes_strong_secrets_that_only_the_owner_can_read(bare: Path) -> None:
    (bare / "a").mkdir()
    (bare / "b").mkdir()
    told = [init_sh(bare / name).stdout for name in ("a", "b")]
    first, second = (load_settings(bare / name / ".env") for name in ("a", "b"))
    values = [
        secret.get_secret_value()
        for settings in (first, second)
        for secret in (settings.api_key, settings.jwt_secret)
    ]
    assert len(set(values)) == 4
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in values)
    assert stat.S_IMODE((bare / "a/.env").stat().st_mode) == 0o600
    assert not any(value in "".join(told) for value in values)
    assert first.warnings() == []


def test_init_sh_never_touches_an_existing_env(bare: Path) -> None:
    (bare / ".env").write_text("API_KEY=mine\n")
    (bare / ".env").chmod(0o640)
    assert init_sh(bare).stdout == ""
    assert (bare / ".env").read_text() == "API_KEY=mine\n"
    assert stat.S_IMODE((bare / ".env").stat().st_mode) == 0o640


def _environment_with(python: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "deploy/environment"), str(python), "env"],
        cwd=python.parent,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("echo 3.9.2; case $2 in *exit*) exit 1;; esac", "3.11 or newer is needed"),
        ("case $2 in *ensurepip*) exit 1;; esac; echo 3.12.1", "apt-get install python3.12-venv"),
        ("exit 127", "does not run"),
    ],
    ids=["too old", "Debian without venv", "missing"],
)
def test_an_unfit_python_is_told_in_one_line(bare: Path, python: str, message: str) -> None:
    script = bare / "python3"
    script.write_text(f"#!/bin/sh\n{python}\n")
    script.chmod(0o755)
    done = _environment_with(script)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("longhaul: ")
    assert message in line
    assert not (bare / "env").exists()


def test_gunicorn_knows_every_name_in_its_configuration() -> None:
    """gunicorn ignores names it does not know, so a slip of the pen would go unnoticed."""
    tree = ast.parse((ROOT / "deploy/gunicorn.conf.py").read_text())
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    public = {name for name in names if not name.startswith("_")}
    assert public - set(Config().settings) == set()


def test_a_wrong_setting_stops_gunicorn_with_one_line(bare: Path) -> None:
    environment = {**os.environ, "API_KEY": "k", "JWT_SECRET": "s", "WORKERS": "many"}
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", ROOT / "deploy/gunicorn.conf.py", "wsgi:app"],
        cwd=bare,
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "longhaul: WORKERS is 'many': it must be a whole number, at least 1\n"


@pytest.mark.live
def test_answers_do_not_tell_versions(server: Server) -> None:
    answer = requests.get(f"{server.url}/health", timeout=10)
    assert not any(digit in answer.headers["Server"] for digit in "0123456789")


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://localhost:3000"),
        ({"BIND_ADDR": "[::]:80"}, "http://localhost:80"),
        ({"BIND_ADDR": "[fd00::1]:80"}, "http://[fd00::1]:80"),
        ({"BIND_ADDR": "127.0.0.9:1"}, "http://127.0.0.9:1"),
    ],
)
def test_the_hint_of_make_run_is_a_command_that_a_shell_takes(
    bare: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str
) -> None:
    key = 'it\'s a "key" $HOME'
    for name, value in ({"API_KEY": key, "JWT_SECRET": "s" * 32} | variables).items():
        monkeypatch.setenv(name, value)
    loader = importlib.machinery.SourceFileLoader("serve", str(ROOT / "deploy/serve"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("serve", loader))
    loader.exec_module(module)
    command = module.hint(load_settings()).splitlines()[-1]
    shown = subprocess.run(
        ["sh", "-c", f"curl() {{ printf '%s\\n' \"$@\"; }}\n{command}"],
        check=True,
        capture_output=True,
        text=True,
    )
    words = shown.stdout.splitlines()
    assert words[:3] == ["-X", "POST", f"{url}/upload/init"]
    assert f"X-API-Key: {key}" in words
    assert words[-1] == '{"filename": "hello.txt", "total_size": 12}'
