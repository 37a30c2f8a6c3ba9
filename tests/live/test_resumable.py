"""Resumable.js on several workers: chunks that meet, break off and survive the server's end."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.conftest import StartServer
from tests.harness.missing import lacking
from tests.harness.native import MIB, TIMEOUT_SECONDS
from tests.harness.nginx import Nginx, find_nginx
from tests.harness.resumable import CHUNK_BYTES, PATH, File, Resumable, answer_of
from tests.harness.server import API_KEY, ROOT, Server
from tests.harness.wire import events, rows, wait_until
from tests.live.wire import Answer, Connection, metric

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: How often all chunks of a file are sent at once.
ROUNDS = 50

BOUNDARY = "----WebKitFormBoundary0123456789abcdef"

STORED, LOCKED = 200, 503

#: Chunks have to stop 5 s before the kill.
GRACEFUL_SECONDS = 7


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with more workers than cores."""
    server = Server(tmp_path_factory.mktemp("crowd"), WORKERS=4)
    server.start()
    yield server
    server.close()


@pytest.fixture
def resumable(crowd: Server) -> Resumable:
    """A client of that server."""
    return Resumable(crowd)


def octet_head(file: File, number: int, length: int | None = None) -> bytes:
    """Return the head of a chunk as a raw body."""
    return _head(file, number, "application/octet-stream", length or len(file.chunk(number)))


def form(file: File, number: int) -> tuple[bytes, bytes, bytes]:
    """Return what a form has before the chunk, with the request's head, the chunk, and the rest."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in file.fields(number).items()
    ]
    parts.append(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="blob"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    before, behind = "".join(parts).encode(), f"\r\n--{BOUNDARY}--\r\n".encode()
    chunk = file.chunk(number)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    head = _head(file, number, kind, len(before) + len(chunk) + len(behind))
    return head + before, chunk, behind


def _head(file: File, number: int, kind: str, length: int) -> bytes:
    lines = [
        f"POST {PATH}?{urlencode(file.fields(number))} HTTP/1.1",
        "Host: 127.0.0.1",
        f"X-API-Key: {API_KEY}",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def put_at_once(server: Server, files: Sequence[File], number: int) -> list[Answer]:
    """Send several versions of a chunk on connections of their own, half by half together."""
    together = threading.Barrier(len(files), timeout=TIMEOUT_SECONDS)

    def put(file: File) -> Answer:
        with Connection(server) as connection:
            chunk = file.chunk(number)
            together.wait()
            connection.send(octet_head(file, number), chunk[: len(chunk) // 2])
            together.wait()
            connection.send(chunk[len(chunk) // 2 :])
            return connection.read()

    with ThreadPoolExecutor(len(files)) as pool:
        return list(pool.map(put, files))


def final_bytes(answer: dict[str, object]) -> bytes:
    return Path(str(answer["final_path"])).read_bytes()


# Chunks that meet


def test_all_chunks_at_once_in_any_order_make_one_file_that_is_completed_once(
    crowd: Server, content: Content
) -> None:
    clients = [Resumable(crowd) for _ in range(8)]
    dice = random.Random(1)
    with ThreadPoolExecutor(len(clients)) as pool:
        for _ in range(ROUNDS):
            file = File(content(len(clients) * CHUNK_BYTES + 17))
            numbers = [*file.numbers]
            dice.shuffle(numbers)
            together = threading.Barrier(len(clients), timeout=TIMEOUT_SECONDS)

            def send(client: Resumable, number: int) -> dict[str, object]:
                send_raw = client.form_raw if number % 2 else client.octet_raw
                together.wait()  # noqa: B023
                return answer_of(send_raw(file, number))  # noqa: B023

            answers = list(pool.map(send, clients, numbers))
            assert len({answer["id"] for answer in answers}) == 1
            assert len({answer["location"] for answer in answers}) == 1
            upload_id = str(answers[0]["id"])
            wait_until(lambda: clients[0].test_raw(file, 1).json()["complete"], "the file is there")  # noqa: B023
            assert events(crowd, upload_id).count("completed") == 1
            assert events(crowd, upload_id).count("finalized") == 1
            assert final_bytes(clients[0].test_raw(file, 1).json()) == file.content
            assert max(int(str(answer["received"])) for answer in answers) == len(clients)


def test_the_same_chunk_twice_at_once_is_stored_once(
    crowd: Server, resumable: Resumable, content: Content
) -> None:
    for _ in range(10):
        file = File(content(2 * MIB), chunk_size=MIB)
        answers = put_at_once(crowd, [file, file, file], 1)
        assert STORED in [answer.status for answer in answers]
        assert {answer.status for answer in answers} <= {STORED, LOCKED}
        assert {answer.json["received"] for answer in answers if answer.status == STORED} == {1}
        assert final_bytes(resumable.octet(file, 2)) == file.content


def test_two_versions_of_a_chunk_at_once_leave_one_of_them_and_no_mixture(
    crowd: Server, resumable: Resumable, content: Content
) -> None:
    for _ in range(10):
        files = [File(content(2 * MIB), chunk_size=MIB, identifier="versions") for _ in range(2)]
        answers = put_at_once(crowd, files, 1)
        assert {answer.status for answer in answers} <= {STORED, LOCKED}
        whole = final_bytes(resumable.octet(files[0], 2))
        assert whole[:MIB] in [file.chunk(1) for file in files]
        upload_id = resumable.test_raw(files[0], 2).json()["id"]
        assert events(crowd, upload_id).count("completed") == 1
        resumable.session.delete(
            f"{crowd.url}/upload/{upload_id}", headers=resumable.headers, timeout=TIMEOUT_SECONDS
        )


def test_an_edited_file_sent_again_over_four_connections_is_no_mixture(
    crowd: Server, content: Content
) -> None:
    """As a client sends it that does not test: the gaps of the old one are filled in between."""
    dice = random.Random(2)
    clients = [Resumable(crowd) for _ in range(4)]
    with ThreadPoolExecutor(len(clients)) as pool:
        for _ in range(10):
            old = File(content(8 * CHUNK_BYTES))
            new = File(content(8 * CHUNK_BYTES), identifier=old.identifier)
            gaps = dice.sample([6, 7, 8], dice.randint(1, 3))
            for number in set(old.numbers) - set(gaps):
                clients[0].octet(old, number)

            def send(number: int) -> dict[str, object]:
                return answer_of(clients[number % 4].octet_raw(new, number))  # noqa: B023

            assert len({answer["id"] for answer in pool.map(send, new.numbers)}) == 1
            wait_until(lambda: clients[0].test_raw(new, 1).json()["complete"], "the file is there")  # noqa: B023
            done = clients[0].test_raw(new, 1).json()
            assert final_bytes(done) == new.content
            assert events(crowd, done["id"]).count("completed") == 1


def test_a_second_writer_waits_for_the_first_and_finds_the_chunk_stored(
    crowd: Server, content: Content
) -> None:
    """flow.js gives up at the first error: what the other request stores must be a success."""
    file = File(content(2 * CHUNK_BYTES))
    with Connection(crowd) as first, Connection(crowd) as second:
        first.send(octet_head(file, 1), file.chunk(1)[:-1])
        wait_until(lambda: _leases(crowd), "the first one writes")
        second.send(octet_head(file, 1), file.chunk(1))
        wait_until(lambda: _leases(crowd, contended=1), "the second one waits")
        first.send(file.chunk(1)[-1:])
        assert first.read().status == STORED
        answer = second.read()
    assert answer.status == STORED
    assert answer.json["received"] == 1


def test_a_writer_whose_client_has_gone_silent_lets_go(crowd: Server, content: Content) -> None:
    file = File(content(2 * CHUNK_BYTES))
    with Connection(crowd) as silent:
        silent.send(octet_head(file, 1), file.chunk(1)[:100])
        wait_until(lambda: _leases(crowd), "the first one writes")
        client = Resumable(crowd)
        refused = client.octet_raw(file, 1)
        assert refused.status_code == LOCKED
        assert int(refused.headers["Retry-After"]) > 0
        wait_until(
            lambda: client.octet_raw(file, 1).status_code == STORED, "the silent one has let go", 30
        )
        assert silent.read().status == LOCKED


def _leases(server: Server, contended: int = 0) -> list[object]:
    query = "SELECT 1 FROM leases WHERE upload_id != '' AND key = '0' AND contended >= ?"
    return list(rows(server, query, contended))


# Cuts


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("where", ["fields", "file's head", "first bytes", "middle", "end"])
def test_a_form_that_is_cut_leaves_the_chunk_pending(
    crowd: Server, resumable: Resumable, content: Content, where: str, how: str
) -> None:
    file = File(content(2 * MIB), chunk_size=MIB)
    before, chunk, behind = form(file, 1)
    whole = before + chunk + behind
    sent = {
        "fields": len(before) // 2,
        "file's head": len(before) - 10,
        "first bytes": len(before) + 10,
        "middle": len(before) + MIB // 2,
        "end": len(whole) - 5,
    }[where]
    connection = Connection(crowd)
    connection.send(whole[:sent])
    connection.cut(how)
    wait_until(lambda: not _leases(crowd), "the cut is noticed")
    assert not resumable.test(file, 1)
    with Connection(crowd) as again:
        again.send(whole)
        assert again.read().json["received"] == 1
    assert final_bytes(resumable.octet(file, 2)) == file.content


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_within_a_chunk_that_is_being_replaced_leaves_it_pending(
    crowd: Server, resumable: Resumable, content: Content, how: str
) -> None:
    old = File(content(2 * MIB), chunk_size=MIB)
    new = File(content(2 * MIB), chunk_size=MIB, identifier=old.identifier)
    resumable.octet(old, 1)
    connection = Connection(crowd)
    connection.send(octet_head(new, 1), new.chunk(1)[: MIB // 2])
    wait_until(lambda: not resumable.test(old, 1), "the old chunk has been withdrawn")
    connection.cut(how)
    wait_until(lambda: not _leases(crowd), "the cut is noticed")
    assert not resumable.test(old, 1)
    resumable.octet(new, 1)
    assert final_bytes(resumable.octet(new, 2)) == new.content


# The server's end


@pytest.mark.parametrize("way", ["octet", "form"])
def test_a_killed_server_goes_on_where_it_was(
    start_server: StartServer, content: Content, way: str
) -> None:
    server = start_server(WORKERS=2)
    client = Resumable(server)
    file = File(content(5 * MIB + 99), chunk_size=MIB)
    first = client.octet(file, 1)
    client.octet(file, 4)
    with Connection(server) as connection:
        if way == "form":
            before, chunk, _ = form(file, 2)
        else:
            before, chunk = octet_head(file, 2), file.chunk(2)
        connection.send(before, chunk[: MIB - 1])
        wait_until(
            lambda: rows(server, "SELECT 1 FROM leases WHERE key = '1'"), "chunk 2 is being written"
        )
        server.kill()
    server.start()
    client = Resumable(server)
    assert [number for number in file.numbers if client.test(file, number)] == [1, 4]
    for number in (2, 3, 5):
        answer = answer_of(client.form_raw(file, number))
    assert answer["complete"]
    assert answer["id"] == first["id"]
    assert final_bytes(answer) == file.content


def test_a_server_killed_within_a_replacement_takes_no_mixture_for_a_chunk(
    start_server: StartServer, content: Content
) -> None:
    server = start_server(WORKERS=1)
    client = Resumable(server)
    old = File(content(2 * MIB), chunk_size=MIB)
    new = File(content(2 * MIB), chunk_size=MIB, identifier=old.identifier)
    client.octet(old, 1)
    with Connection(server) as connection:
        connection.send(octet_head(new, 1), new.chunk(1)[: MIB - 1])
        wait_until(lambda: not client.test(old, 1), "the old chunk has been withdrawn")
        server.kill()
    server.start()
    client = Resumable(server)
    assert not client.test(old, 1)
    client.octet(new, 1)
    assert final_bytes(client.octet(new, 2)) == new.content


def test_a_stopping_server_keeps_forms_that_come_whole_and_sends_the_others_away(
    start_server: StartServer, content: Content
) -> None:
    server = start_server(GRACEFUL_TIMEOUT_SECS=GRACEFUL_SECONDS)
    client = Resumable(server)
    file = File(content(4 * MIB), chunk_size=MIB)
    first = answer_of(client.form_raw(file, 1))
    with Connection(server) as quick, Connection(server) as slow, Connection(server) as early:
        for connection, number in ((quick, 2), (slow, 3)):
            before, chunk, _ = form(file, number)
            connection.send(before, chunk[: MIB // 2])
        early.send(form(file, 4)[0][:-10])  # still within its fields
        written = "SELECT 1 FROM leases WHERE key IN ('1', '2')"
        wait_until(lambda: len(rows(server, written)) == 2, "two forms are being written")
        server.terminate()
        _, chunk, behind = form(file, 2)
        quick.send(chunk[MIB // 2 :], behind)
        assert quick.read().json["received"] == 2
        for connection in (slow, early):
            answer = connection.read()
            assert (answer.status, answer.json["code"]) == (LOCKED, "shutting_down")
            assert int(answer.headers["retry-after"]) > 0
        assert server.wait() == 0
    server.start()
    client = Resumable(server)
    assert [number for number in file.numbers if client.test(file, number)] == [1, 2]
    answer_of(client.form_raw(file, 3))
    done = answer_of(client.form_raw(file, 4))
    assert done["id"] == first["id"]
    assert final_bytes(done) == file.content


# The way of the bytes


def test_the_bytes_of_forms_come_from_the_socket_and_the_connection_lives_on(
    start_server: StartServer, content: Content
) -> None:
    server = start_server(WORKERS=1)
    file = File(content(3 * MIB), chunk_size=MIB)
    with Connection(server) as connection:
        for number in file.numbers:
            connection.send(*form(file, number))
            answer = connection.read()
            assert answer.status == STORED
    assert final_bytes(answer.json) == file.content
    assert metric(server, 'longhaul_bodies_total{source="socket"}') == 3
    assert metric(server, 'longhaul_bodies_total{source="stream"}') == 0
    assert metric(server, 'longhaul_received_bytes_total{protocol="resumable"}') == 3 * MIB


def test_forms_that_are_sent_without_waiting_are_answered_in_order(
    crowd: Server, content: Content
) -> None:
    file = File(content(3 * CHUNK_BYTES))
    with Connection(crowd) as connection:
        connection.send(b"".join(b"".join(form(file, number)) for number in file.numbers))
        answers = [connection.read() for _ in file.numbers]
    assert [answer.json["received"] for answer in answers] == [1, 2, 3]
    assert final_bytes(answers[-1].json) == file.content


def test_a_form_that_trickles_in_is_taken(crowd: Server, content: Content) -> None:
    file = File(content(200), chunk_size=CHUNK_BYTES)
    whole = b"".join(form(file, 1))
    with Connection(crowd) as connection:
        for at in range(0, len(whole), 7):
            connection.send(whole[at : at + 7])
            time.sleep(0.001)  # so that pieces arrive one by one
        assert final_bytes(connection.read().json) == file.content


# Behind a proxy


def readme_config() -> str:
    """Return a server with what the README says is needed of nginx."""
    block = re.search(r"```nginx\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    inside = block[1].replace("http://127.0.0.1:3000", "http://longhaul")
    return f"upstream longhaul {{ server 127.0.0.1:3000; }}\nserver {{\nlisten 80;\n{inside}\n}}"


@pytest.fixture(params=["deploy", "readme"])
def proxied(
    request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path
) -> Iterator[tuple[Server, Nginx]]:
    """A server and an nginx in front of it, with the configuration that we deploy or print."""
    program = find_nginx()
    if program is None:
        lacking("nginx is not installed (Debian: apt-get install nginx-light)")
    server = start_server(TRUSTED_PROXIES="127.0.0.1")
    directory = tmp_path / "nginx"
    directory.mkdir()
    nginx = Nginx(program, directory)
    deployed = (ROOT / "deploy" / "nginx.conf").read_text()
    config = deployed if request.param == "deploy" else readme_config()
    config = config.replace("server 127.0.0.1:3000;", f"server 127.0.0.1:{server.port};")
    config = config.replace("listen 80;", f"listen 127.0.0.1:{nginx.port};")
    nginx.start(config)
    yield server, nginx
    nginx.stop()


def test_behind_nginx_all_works_and_locations_are_the_proxys(
    proxied: tuple[Server, Nginx], content: Content
) -> None:
    server, nginx = proxied
    client = Resumable(server)
    client.base_url = nginx.url
    client.headers["Forwarded"] = "host=evil.example"
    name = "ü" * 120 + ".mp4"  # three times, percent-encoded, it fills a long request line
    file = File(content(3 * MIB), chunk_size=MIB, name=name, identifier=f"3145728-{name}")
    assert not client.test(file, 1)
    answer = answer_of(client.form_raw(file, 1))
    assert answer["location"] == f"{nginx.url}/download/{answer['id']}"
    answer_of(client.octet_raw(file, 2, iter([file.chunk(2)])))
    done = client.octet(file, 3)
    assert final_bytes(done) == file.content
    downloaded = client.session.get(
        done["location"], headers=client.headers, timeout=TIMEOUT_SECONDS
    )
    assert downloaded.content == file.content


def test_nginx_does_not_keep_bodies_back(proxied: tuple[Server, Nginx], content: Content) -> None:
    """The first half of a chunk is on the server's disk before the second has been sent."""
    server, nginx = proxied
    file = File(content(2 * MIB), chunk_size=MIB)
    half = MIB // 2
    with Connection(server, port=nginx.port) as connection:
        connection.send(octet_head(file, 1), file.chunk(1)[:half])

        def first_half_is_there() -> bool:
            found = [path.read_bytes()[: half // 2] for path in server.staged_files()]
            return file.chunk(1)[: half // 2] in found

        wait_until(first_half_is_there, "the first bytes are on the disk")
        connection.send(file.chunk(1)[half:])
        assert connection.read().status == STORED
