"""API keys made with ``flask keys``: what they open, whose uploads they see, and their end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.native import Native, Upload
from tests.harness.server import Server
from tests.harness.wire import assert_problem, nothing_stored, rows

pytestmark = pytest.mark.not_in("s3-staged", why="keys are in the database alone")


@dataclass(frozen=True)
class Clients:
    """A client for each kind of key."""

    alice: Native
    bob: Native
    prometheus: Native
    boss: Native


def create_key(server: Server, name: str, *scopes: str) -> str:
    """Run ``flask keys create``; return the key it prints."""
    options = [option for scope in scopes for option in ("--scope", scope)]
    key = server.flask("keys", "create", name, *options).stdout.strip()
    assert len(key) >= 43  # 256 bits in base64
    return key


@pytest.fixture(scope="module")
def clients(server: Server) -> Clients:
    """Clients with keys of the shared server."""
    return Clients(
        alice=Native(server, create_key(server, "alice")),
        bob=Native(server, create_key(server, "bob", "upload")),
        prometheus=Native(server, create_key(server, "prometheus", "metrics")),
        boss=Native(server, create_key(server, "boss", "admin")),
    )


@pytest.fixture(scope="module")
def revoked(server: Server) -> Native:
    """A client whose key has been revoked; it has left an upload, carols.txt."""
    client = Native(server, create_key(server, "carol"))
    client.init("carols.txt", size=5)
    assert "carol revoked" in server.flask("keys", "revoke", "carol").stdout
    return client


def statuses(client: Native, upload: Upload) -> list[int]:
    """Return what a client is answered on each route of an upload; it changes nothing."""
    return [
        client.request(method, f"/upload/{upload.id}{path}").status_code
        for method, path in [("GET", "/status"), ("GET", "/tokens"), ("POST", "/complete")]
    ]


# Scopes


def test_a_key_uploads_a_file_from_beginning_to_end(clients: Clients) -> None:
    upload = clients.alice.init(size=5)
    clients.alice.put_all(upload, b"bytes")
    assert clients.alice.status(upload)["uploaded_parts"] == 1
    assert (
        clients.alice.server.file(clients.alice.complete(upload)["final_path"]).read_bytes()
        == b"bytes"
    )
    assert clients.alice.cancel_raw(upload).status_code == 200


def test_a_key_without_the_scope_is_refused(server: Server, clients: Clients) -> None:
    upload = clients.alice.init(size=5)
    with nothing_stored(server):
        for method, path in [
            ("POST", "/upload/init"),
            ("GET", f"/upload/{upload.id}/status"),
            ("GET", f"/upload/{upload.id}/tokens"),
            ("POST", f"/upload/{upload.id}/complete"),
            ("DELETE", f"/upload/{upload.id}"),
        ]:
            response = clients.prometheus.request(method, path)
            message = assert_problem(response.status_code, response.content, 403, "not_authorized")
            assert "upload" in message
    response = clients.alice.request("GET", "/metrics")
    assert "metrics" in assert_problem(
        response.status_code, response.content, 403, "not_authorized"
    )


def test_metrics_are_for_keys_of_that_scope_and_admins(clients: Clients) -> None:
    for client in (clients.prometheus, clients.boss):
        key = client.headers["X-API-Key"]
        for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
            assert client.request("GET", "/metrics", headers=headers).status_code == 200


# Whose uploads


def test_a_key_sees_only_its_own_uploads(server: Server, clients: Clients) -> None:
    own, others = clients.alice.init(size=5), clients.bob.init(size=5)
    assert statuses(clients.alice, own) == [200, 200, 400]
    with nothing_stored(server):
        for upload, stranger in [(own, clients.bob), (others, clients.alice)]:
            assert statuses(stranger, upload) == [404, 404, 404]
            response = stranger.cancel_raw(upload)
            assert_problem(response.status_code, response.content, 404, "upload_not_found")
    assert clients.alice.status(own)["status"] == "pending"


def test_a_strangers_complete_upload_stays_where_it_is(clients: Clients) -> None:
    upload = clients.alice.init(size=5)
    clients.alice.put_all(upload, b"bytes")
    path = clients.alice.server.file(clients.alice.complete(upload)["final_path"])
    assert statuses(clients.bob, upload) == [404, 404, 404]
    assert clients.bob.cancel_raw(upload).status_code == 404
    assert path.read_bytes() == b"bytes"


def test_the_key_of_the_settings_and_admin_keys_see_everybodys(
    native: Native, clients: Clients
) -> None:
    for owner in (clients.alice, clients.boss, native):
        for reader in (clients.boss, native):
            upload = owner.init(size=5)
            assert statuses(reader, upload) == [200, 200, 400]
            assert reader.cancel_raw(upload).status_code == 200
    assert statuses(clients.alice, native.init(size=5)) == [404, 404, 404]


def test_a_part_token_works_whoever_sends_it(clients: Clients) -> None:
    upload = clients.alice.init(size=5)
    clients.bob.put(upload, 0, b"bytes")  # a browser has no key at all
    assert clients.alice.status(upload)["uploaded_parts"] == 1


# The end


def test_a_revoked_key_is_refused_at_once(server: Server, native: Native, revoked: Native) -> None:
    (row,) = rows(server, "SELECT id FROM uploads WHERE filename = 'carols.txt'")
    for response in (
        revoked.init_raw({"filename": "a", "total_size": 5}),
        revoked.request("GET", f"/upload/{row['id']}/status"),
        revoked.request("DELETE", f"/upload/{row['id']}"),
    ):
        message = assert_problem(response.status_code, response.content, 401, "not_authenticated")
        assert message == "Invalid API key"
    assert native.status(row["id"])["status"] == "pending"  # its uploads stay


@pytest.mark.usefixtures("revoked")
def test_only_a_valid_key_can_be_revoked_and_its_name_stays_taken(server: Server) -> None:
    for arguments in (("revoke", "carol"), ("create", "carol")):
        refused = server.flask("keys", *arguments, check=False)
        assert refused.returncode == 1
        assert "Error: " in refused.stderr
        assert "carol" in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.usefixtures("revoked")
def test_the_list_shows_everything_but_the_keys(server: Server, clients: Clients) -> None:
    both = create_key(server, "both", "upload", "metrics")
    listed = server.flask("keys", "list").stdout
    lines = {line.split()[0]: line for line in listed.splitlines()}
    for name, scopes in [
        ("alice", "upload"),
        ("prometheus", "metrics"),
        ("boss", "admin"),
        ("both", "metrics,upload"),
    ]:
        assert re.fullmatch(rf"{name}  {scopes}  created 20\S+Z  valid", lines[name])
    assert re.fullmatch(r"carol  upload  created 20\S+Z  revoked 20\S+Z", lines["carol"])
    keys = [client.headers["X-API-Key"] for client in vars(clients).values()]
    assert not any(key in listed for key in (*keys, both))


def test_an_unknown_scope_is_refused(server: Server) -> None:
    refused = server.flask("keys", "create", "eve", "--scope", "everything", check=False)
    assert refused.returncode == 2
    assert "everything" in refused.stderr
    assert rows(server, "SELECT * FROM api_keys WHERE name = 'eve'") == []


def test_keys_are_kept_as_hashes(server: Server, clients: Clients) -> None:
    key = clients.alice.headers["X-API-Key"]
    (row,) = rows(server, "SELECT * FROM api_keys WHERE name = 'alice'")
    assert key not in str(row)
    files = (server.database, Path(f"{server.database}-wal"), server.log_path)
    assert not any(key.encode() in path.read_bytes() for path in files if path.exists())
