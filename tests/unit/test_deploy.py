"""What is in ``deploy`` fits the server: settings, files, and what nginx thinks of it."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.harness.nginx import for_anybody, require_nginx
from tests.harness.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

SETTINGS = {name.upper() for name in Settings.model_fields}

#: Read by boto3, Python and Flask, not by our settings.
FOREIGN = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "FLASK_APP",
    "PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def dockerfile() -> list[list[str]]:
    """The instructions of the Dockerfile, continued lines joined, each as its words."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [shlex.split(line) for line in lines]


def nodes(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: service
        for name, service in compose["services"].items()
        if service["image"] == "longhaul"
    }


def test_the_containers_get_settings_that_exist(compose: dict[str, Any]) -> None:
    assert set(nodes(compose)) == {"longhaul", "node-a", "node-b"}
    for service in nodes(compose).values():
        given = set(service["environment"])
        assert {"API_KEY", "JWT_SECRET"} <= given <= SETTINGS | FOREIGN


def test_a_container_is_given_more_time_to_stop_than_the_server_takes(
    compose: dict[str, Any],
) -> None:
    takes_seconds = Settings.model_fields["graceful_timeout_secs"].default
    for service in nodes(compose).values():
        assert int(service["stop_grace_period"].removesuffix("s")) > takes_seconds


def test_every_node_has_a_disk_of_its_own_and_the_same_settings(compose: dict[str, Any]) -> None:
    first, second = (compose["services"][name] for name in ("node-a", "node-b"))
    assert first["environment"] == second["environment"]
    assert first["volumes"] != second["volumes"]
    declared = set(compose["volumes"])
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in declared or (DEPLOY / source).is_file()


def test_one_node_is_what_starts_without_a_profile(compose: dict[str, Any]) -> None:
    plain = [name for name, service in compose["services"].items() if "profiles" not in service]
    assert plain == ["longhaul"]
    assert {tuple(s["profiles"]) for s in compose["services"].values() if "profiles" in s} == {
        ("scale",)
    }


def test_the_image_is_made_of_files_that_are_there_and_not_ignored() -> None:
    kept = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [
        source
        for instruction, *words in dockerfile()
        if instruction == "COPY" and not words[0].startswith("--from")
        for source in words[:-1]
    ]
    assert "app" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(
            fnmatch.fnmatch(source, kept_one) or source.startswith(f"{kept_one}/")
            for kept_one in kept
        ), source


def test_the_image_runs_as_nobody_special_with_settings_that_exist() -> None:
    instructions = dockerfile()
    (user,) = [words[0] for name, *words in instructions if name == "USER"]
    assert user not in ("root", "0")
    given = {
        word.partition("=")[0]
        for name, *words in instructions[instructions.index(["USER", user]) :]
        if name == "ENV"
        for word in words
    }
    assert {"LOCAL_STORAGE_PATH", "DATABASE_PATH"} <= given <= SETTINGS | FOREIGN
    assert ["CMD", "[gunicorn,", "-c,", "deploy/gunicorn.conf.py,", "wsgi:app]"] in instructions


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("nginx*.conf")))
def test_nginx_takes_its_configuration(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / name).read_text()
    # Names of other containers mean nothing here, and nginx looks them up at once.
    text = re.sub(r"server node-\w+:", "server 127.0.0.1:", text)
    # nginx opens its ports even for this, and those below 1024 are not everybody's.
    text = re.sub(r"^( *listen) \d+;", rf"\1 127.0.0.1:{free_port()};", text, flags=re.MULTILINE)
    if "http {" not in text:  # a part of a configuration, for conf.d
        text = f"events {{}}\nhttp {{\n{text}\n}}\n"
    config = tmp_path / name
    config.write_text(for_anybody(text, tmp_path))
    checked = subprocess.run(
        [require_nginx(), "-t", "-q", "-e", "stderr", "-p", tmp_path, "-c", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
