"""/health, /ready, /metrics, and the request ids that tie answers to log lines."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.native import TIMEOUT_SECONDS, Native
from tests.harness.server import API_KEY, Server
from tests.harness.wire import assert_problem, change, connect, head, rows, wait_until

StartServer = Callable[..., Server]


def metrics(server: Server) -> dict[str, float]:
    """Return the samples of a server's metrics, as written: name{labels} → value."""
    response = requests.get(
        f"{server.url}/metrics", headers={"X-API-Key": API_KEY}, timeout=TIMEOUT_SECONDS
    )
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Hold one process of our own still: the other workers get all new connections."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# Health


def test_a_healthy_server_says_so_without_credentials(server: Server) -> None:
    response = requests.get(f"{server.url}/health", timeout=TIMEOUT_SECONDS)
    assert response.status_code == 200
    assert response.json() == {
        "status": "OK",
        "storage": {"backend_type": server.store.backend, "status": "healthy", "message": None},
    }


def health_of(server: Server, status: int) -> dict[str, Any] | None:
    """Return what /health tells, None if it answers with another status."""
    response = requests.get(f"{server.url}/health", timeout=TIMEOUT_SECONDS)
    return response.json() if response.status_code == status else None


@pytest.mark.not_in("s3-staged", why="what waits on the disk goes on without the bucket")
def test_a_server_without_its_storage_is_degraded_until_it_is_back(
    fragile: Server, storage_away: Callable[[], AbstractContextManager[None]]
) -> None:
    native = Native(fragile)
    with storage_away():
        answer = wait_until(lambda: health_of(fragile, 503), "the missing storage is noticed")
        message = answer["storage"]["message"]
        assert answer == {
            "status": "DEGRADED",
            "storage": {
                "backend_type": fragile.store.backend,
                "status": "unavailable",
                "message": message,
            },
        }
        for hidden in (str(fragile.directory), os.uname().nodename, getpass.getuser()):
            assert hidden not in message.replace("storage root", "storage")
        ready = requests.get(f"{fragile.url}/ready", timeout=TIMEOUT_SECONDS)
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "reasons": [message]})
        response = native.init_raw({"filename": "a", "total_size": 5})
        assert_problem(response.status_code, response.content, 503, "storage_unavailable")
        assert int(response.headers["Retry-After"]) > 0
    wait_until(lambda: health_of(fragile, 200), "the storage is back")
    assert native.init(size=5).tokens


def test_a_server_without_its_tables_is_degraded_until_they_are_back(fragile: Server) -> None:
    (version,) = rows(fragile, "SELECT version_num FROM alembic_version")
    change(fragile, "UPDATE alembic_version SET version_num = 'another'")
    answer = wait_until(lambda: health_of(fragile, 503), "the missing tables are noticed")
    assert answer["status"] == "DEGRADED"
    assert answer["storage"]["status"] == "healthy"
    ready = requests.get(f"{fragile.url}/ready", timeout=TIMEOUT_SECONDS)
    assert ready.status_code == 503
    assert "database" in ready.json()["reasons"][0]
    change(fragile, "UPDATE alembic_version SET version_num = ?", version["version_num"])
    wait_until(lambda: health_of(fragile, 200), "the tables are back")


def test_a_ready_server_says_so(server: Server) -> None:
    response = requests.get(f"{server.url}/ready", timeout=TIMEOUT_SECONDS)
    assert (response.status_code, response.json()) == (200, {"ready": True, "reasons": []})


# Metrics


def test_metrics_want_a_key_in_either_header(server: Server, native: Native) -> None:
    for headers, status in [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Basic {API_KEY}"}, 401),
        ({"Authorization": API_KEY}, 401),
        ({"X-API-Key": API_KEY}, 200),
        ({"Authorization": f"Bearer {API_KEY}"}, 200),
        ({"Authorization": f"bearer {API_KEY}"}, 200),
    ]:
        response = native.request("GET", "/metrics", headers=headers)
        assert response.status_code == status
        if status == 401:
            assert_problem(401, response.content, 401, "not_authenticated")
            assert "longhaul_" not in response.text


def test_public_metrics_want_no_key(strict: Server) -> None:
    response = requests.get(f"{strict.url}/metrics", timeout=TIMEOUT_SECONDS)
    assert response.status_code == 200
    assert "longhaul_http_requests_total" in response.text


def test_figures_are_those_of_all_workers_together(start_server: StartServer) -> None:
    server = start_server(WORKERS=2)
    first, second = server.worker_pids()
    created, bytes_received = 0, 0
    for other, count in [(first, 3), (second, 5)]:
        with frozen(other):
            for _ in range(count):
                native = Native(server)  # a connection of its own
                native.put(native.init(size=7), 0, b"sevenby")
                created, bytes_received = created + 1, bytes_received + 7
    for _ in range(6):  # whichever worker answers
        found = metrics(server)
        assert found['longhaul_uploads_created_total{"protocol": "native"}'] == created == 8
        assert found['longhaul_received_bytes_total{"protocol": "native"}'] == bytes_received
        route = {"method": "POST", "route": "/upload/init", "status": "200"}
        assert found[f"longhaul_http_requests_total{json.dumps(route)}"] == 8
        assert found['longhaul_uploads{"state": "open"}'] == 8
        assert found["longhaul_http_requests_running{}"] == 1  # this very one

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len({*server.worker_pids()} - {first}) == 2, "a new worker runs")
    found = metrics(server)
    assert found['longhaul_uploads_created_total{"protocol": "native"}'] == 8  # nothing forgotten


def test_finalizing_and_refusals_are_counted(server: Server, native: Native) -> None:
    before = metrics(server)
    native.complete(native.init(size=0))
    native.request("GET", "/upload/x/status", headers={})
    after = wait_until(
        lambda: (
            (found := metrics(server))['longhaul_finalizations_total{"outcome": "finalized"}']
            > before.get('longhaul_finalizations_total{"outcome": "finalized"}', 0)
            and found
        ),
        "the finalizing is counted",
    )
    refused = {"method": "GET", "route": "/upload/<upload_id>/status", "status": "401"}
    name = f"longhaul_http_requests_total{json.dumps(refused)}"
    assert after[name] == before.get(name, 0) + 1


def test_clients_cannot_invent_labels(server: Server) -> None:
    for number in range(3):
        with connect(server) as sock:
            sock.sendall(head(f"INVENTED{number}", f"/nowhere-{number}", Connection="close"))
            assert b" 404 " in sock.recv(65536)
    text = "\n".join(metrics(server))
    assert "INVENTED" not in text
    assert "nowhere" not in text
    assert '"method": "other", "route": "unknown", "status": "404"' in text


# Request ids


def log_lines_of(server: Server, request_id: str) -> list[dict[str, object]]:
    """Return the log lines that carry a request id."""
    lines = (json.loads(line) for line in server.log_lines() if line.startswith("{"))
    return [line for line in lines if line.get("request_id") == request_id]


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/upload/x/status", "/metrics"])
def test_every_answer_carries_the_id_its_log_lines_have(server: Server, path: str) -> None:
    response = requests.get(server.url + path, timeout=TIMEOUT_SECONDS)
    request_id = response.headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{16}", request_id)
    lines = wait_until(lambda: log_lines_of(server, request_id), "the request is logged")
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["method"], line["path"]) == ("GET", path)
    assert line["status"] == response.status_code
    assert isinstance(line["milliseconds"], int)
    assert line["remote"] == "127.0.0.1"


def test_a_harmless_id_of_the_client_is_kept_and_another_replaced(server: Server) -> None:
    for given, kept in [
        ("client-0123.A_b", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("with space", False),
        ("<script>", False),
        ('"quoted"', False),
    ]:
        response = requests.get(
            f"{server.url}/health", headers={"X-Request-ID": given}, timeout=TIMEOUT_SECONDS
        )
        assert (response.headers["X-Request-ID"] == given) == kept


def test_what_a_request_logs_on_its_way_carries_its_id_too(server: Server, native: Native) -> None:
    upload = native.init(size=5)
    (staged,) = [path for path in server.staged_files() if upload.id in path.name]
    staged.unlink()
    response = native.put_raw(upload, 0, b"bytes", headers={"X-Request-ID": "lost-part"})
    assert response.status_code == 503
    events = [line["event"] for line in log_lines_of(server, "lost-part")]
    assert "staging.vanished" in events
    assert "request" in events
