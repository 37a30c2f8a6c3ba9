"""What is in ``deploy`` fits the server: settings, files, and what nginx thinks of it."""

from __future__ import annotations

import configparser
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings, load_settings
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

#: Makes the tables and looks whether all is there.
ASK = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "flask", "--app", "wsgi:app", "ledger", "migrate"],
               check=True, stdout=subprocess.DEVNULL)
import wsgi
client = wsgi.app.test_client()
print(wsgi.__file__)
for path in ("/ready", "/upload-page", "/upload-page/longhaul-upload.js"):
    print(client.get(path).status_code)
"""


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


@pytest.mark.parametrize("name", ["longhaul", "node-a", "node-b"])
def test_a_container_s_settings_are_taken(
    compose: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the image sets, the secrets of .env, and nothing else in it."""
    monkeypatch.chdir(tmp_path)
    secrets = dict.fromkeys(("API_KEY", "JWT_SECRET"), "0123456789abcdef" * 4)
    told = image_environment() | compose["services"][name]["environment"]
    for variable in SETTINGS | FOREIGN - {"PATH", "PYTHONPATH"}:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in told.items():
        if variable in SETTINGS:
            monkeypatch.setenv(variable, interpolated(value, secrets))
    settings = load_settings()
    assert settings.storage_backend == ("local" if name == "longhaul" else "s3")
    assert settings.is_sqlite is (name == "longhaul")
    assert settings.bind_port == 3000
    volume = compose["services"][name]["volumes"][0].partition(":")[2]
    for path in (settings.temp_storage_path, settings.local_storage_path):
        assert Path(path).is_relative_to(volume), "what is there would be gone with the container"


def interpolated(value: str, given: dict[str, str]) -> str:
    """Put variables into a value as Compose does: ``${NAME:-default}``, ``${NAME:?reason}``."""
    return re.sub(
        r"\$\{(\w+):([-?])([^}]*)\}",
        lambda found: given[found[1]] if found[2] == "?" else given.get(found[1], found[3]),
        value,
    )


def image_environment() -> dict[str, str]:
    """What the Dockerfile's last stage sets."""
    words = [word for name, *words in dockerfile() if name == "ENV" for word in words]
    return dict(word.split("=", 1) for word in words)


def test_services_wait_for_what_can_tell_that_it_is_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        awaited = service.get("depends_on", {})
        for other in awaited:
            assert set(services[other].get("profiles", [])) <= set(service["profiles"])
            told = awaited[other]["condition"] if isinstance(awaited, dict) else "service_started"
            assert "healthcheck" in services[other] or told == "service_started"


def test_nginx_sends_requests_to_all_nodes_where_they_listen(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "nginx-nodes.conf").read_text()
    port = image_environment()["BIND_ADDR"].rpartition(":")[2]
    assert set(re.findall(r"^ *server ([\w:-]+) ", text, re.MULTILINE)) == {
        f"{name}:{port}" for name in nodes(compose) if name != "longhaul"
    }
    [listens] = re.findall(r"listen (\d+);", text)
    assert compose["services"]["nginx"]["ports"] == [f"{listens}:{listens}"]


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


def test_the_image_has_the_libraries_of_all_storages_and_databases() -> None:
    """Without its library a server that is told to use one does not start."""
    project = configparser.ConfigParser()
    project.read(ROOT / "setup.cfg")
    extras = set(project["options.extras_require"]) - {"test"}
    [installed] = [
        word for instruction in dockerfile() for word in instruction if word.startswith(".[")
    ]
    assert set(installed.strip(".[]").split(",")) == extras


def test_what_is_in_the_image_is_enough_to_serve(tmp_path: Path) -> None:
    """The files that its last stage copies, put together as it does."""
    instructions = dockerfile()
    last = max(at for at, words in enumerate(instructions) if words[0] == "FROM")
    for name, *words in instructions[last:]:
        if name == "COPY" and not words[0].startswith("--from"):
            source, target = ROOT / words[0], tmp_path / words[1]
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("vendor"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tmp_path),
            "API_KEY": "a-key-of-the-tests-0123456789",
            "JWT_SECRET": "a-secret-of-the-tests-0123456789abcdef",
            "LOCAL_STORAGE_PATH": str(tmp_path / "uploads"),
            "DATABASE_PATH": str(tmp_path / "uploads.db"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.split() == [str(tmp_path / "wsgi.py"), "200", "200", "200"], asked.stderr


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
