"""PUT /upload/{id}/part/{n}: what is checked and when, what is stored, and what never changes."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.parts import Geometry
from app.domain.tokens import part_tokens
from tests.harness.native import KIB, MIB, Native, Upload, cut, read_response
from tests.harness.server import JWT_SECRET, Server
from tests.harness.stores import Multipart
from tests.harness.wire import (
    assert_problem,
    connect,
    events,
    examples,
    exchange,
    head,
    is_being_written,
    nothing_stored,
    rows,
    wait_for_bytes,
    wait_for_rival,
    wait_for_writer,
    wait_until,
)

pytestmark = pytest.mark.any_part_size

Content = Callable[[int], bytes]

#: An id that no upload has.
NOBODY = "00000000-0000-4000-8000-000000000000"


def part_head(upload: Upload, part: int, **fields: object) -> bytes:
    """Return the head of a part PUT with its token."""
    fields = {"Authorization": f"Bearer {upload.tokens[part]}"} | fields
    return head("PUT", f"/upload/{upload.id}/part/{part}", **fields)


def token_for(upload_id: str, part: int = 0, *, expires_in: int = 600) -> str:
    """Sign a token with the server's secret for whatever upload."""
    geometry = Geometry.of((part + 1) * MIB, MIB)
    expires_at = int(time.time()) + expires_in
    (token,) = part_tokens(upload_id, geometry, [part], expires_at, JWT_SECRET)
    return token


def is_stored(server: Server, upload: Upload, part: int, data: bytes) -> bool:
    """Tell whether ``data`` is what lies where a part belongs."""
    (staged,) = [path for path in server.staged_files() if upload.id in path.name]
    if isinstance(staged, Multipart):
        return staged.md5_of(part) == hashlib.md5(data, usedforsecurity=False).hexdigest()
    offset, length = upload.span(part)
    with staged.open("rb") as file:
        file.seek(offset)
        return file.read(length) == data


def sha256_digest(data: bytes) -> str:
    """Return a Content-Digest field of ``data``."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


# What it gives


def test_a_part_is_answered_with_its_receipt(
    native: Native, content: Content, part_bytes: int
) -> None:
    upload, data = native.init(size=2 * part_bytes + 3), content(part_bytes)
    response = native.put_raw(upload, 1, data)
    assert response.status_code == 200
    assert response.json() == {
        "upload_id": upload.id,
        "part_number": 1,
        "status": "uploaded",
        "checksum_sha256": hashlib.sha256(data).hexdigest(),
        "uploaded_parts": 1,
        "total_parts": 3,
    }


def test_parts_come_in_any_order_and_the_last_one_is_shorter(
    native: Native, content: Content, part_bytes: int
) -> None:
    data = content(3 * part_bytes + 17)
    upload = native.init(size=len(data))
    for count, part in enumerate((3, 0, 2, 1), 1):
        offset, length = upload.span(part)
        assert native.put(upload, part, data[offset : offset + length])["uploaded_parts"] == count
    assert native.server.file(native.complete(upload)["final_path"]).read_bytes() == data


def test_the_last_part_makes_the_upload_completed_once(
    server: Server, native: Native, part_bytes: int
) -> None:
    upload = native.init(size=part_bytes + 1)
    native.put(upload, 1, b"x")
    assert events(server, upload.id) == ["created"]
    native.put(upload, 0, bytes(part_bytes))
    native.put(upload, 0, bytes(part_bytes))
    assert events(server, upload.id) == ["created", "completed"]


def test_the_content_type_of_a_part_does_not_matter(
    native: Native, content: Content, part_bytes: int
) -> None:
    upload, data = native.init(size=4 * part_bytes), content(part_bytes)
    types = ("application/json", "multipart/form-data; boundary=x", "nonsense", "text/plain")
    for part, content_type in enumerate(types):
        response = native.put_raw(upload, part, data, headers={"Content-Type": content_type})
        assert response.json()["checksum_sha256"] == hashlib.sha256(data).hexdigest()


def test_many_parts_at_once_are_all_stored(
    native: Native, content: Content, part_bytes: int
) -> None:
    data = content(16 * part_bytes)
    upload = native.init(size=len(data))

    def put(part: int) -> None:
        client = Native(native.server)
        client.put(upload, part, data[part * part_bytes : (part + 1) * part_bytes])

    threads = [threading.Thread(target=put, args=(part,)) for part in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert native.server.file(native.complete(upload)["final_path"]).read_bytes() == data


# Order of checks: the head alone is sent, and answered before any byte of the body


def answer_to_head(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a head that promises a body, and return the answer that comes without it."""
    with connect(server) as sock:
        sock.settimeout(20)  # a server that waits for the body would wait for 60 s
        sock.sendall(request)
        return read_response(sock)


@pytest.fixture
def upload(native: Native, part_bytes: int) -> Upload:
    """An open upload of three parts."""
    return native.init(size=2 * part_bytes + 17)


@pytest.mark.parametrize("length", [0, 5, MIB, 100 * MIB])
def test_without_a_token_the_body_is_not_waited_for(
    server: Server, upload: Upload, length: int
) -> None:
    for path in (f"/upload/{upload.id}/part/0", f"/upload/{NOBODY}/part/x", "/upload//part/-1"):
        begun = b"x" * (length // 2 if length < KIB else KIB)
        with nothing_stored(server):
            request = head("PUT", path, Content_Length=length) + begun
            status, fields, body = answer_to_head(server, request)
        if path == "/upload//part/-1":  # no upload's path
            assert status in {404, 405}
        else:
            assert "token" in assert_problem(status, body, 401, "not_authenticated").lower()
            assert fields["www-authenticate"].startswith("Bearer")


def test_the_api_key_is_no_part_token(server: Server, upload: Upload, part_bytes: int) -> None:
    key = server.settings["API_KEY"]
    path = f"/upload/{upload.id}/part/0"
    for fields in ({"X_API_Key": key}, {"Authorization": f"Bearer {key}"}):
        request = head("PUT", path, Content_Length=part_bytes, **fields)
        status, _, body = answer_to_head(server, request)
        assert_problem(status, body, 401, "not_authenticated")


def test_a_token_for_another_part_or_upload_is_refused(
    native: Native, upload: Upload, part_bytes: int
) -> None:
    other = native.init(size=2 * part_bytes + 17)
    for path, token in [
        (f"{upload.id}/part/1", upload.tokens[0]),
        (f"{upload.id}/part/0", other.tokens[0]),
        (f"{upload.id}/part/00", upload.tokens[0]),
        (f"{upload.id}/part/+0", upload.tokens[0]),
        (f"{upload.id}/part/0x0", upload.tokens[0]),
        (f"{upload.id}/part/%D9%A0", upload.tokens[0]),  # the digit zero in Arabic
        (f"{upload.id}/part/-1", upload.tokens[0]),
        (f"{upload.id.upper()}x/part/0", upload.tokens[0]),
        (f"{NOBODY}/part/0", upload.tokens[0]),
    ]:
        request = head(
            "PUT", f"/upload/{path}", Content_Length=part_bytes, Authorization=f"Bearer {token}"
        )
        status, _, body = answer_to_head(native.server, request)
        assert_problem(status, body, 401, "not_authenticated")


def test_an_expired_token_is_refused_before_its_unknown_upload_is(server: Server) -> None:
    token = token_for(NOBODY, expires_in=-1)
    request = head(
        "PUT", f"/upload/{NOBODY}/part/0", Authorization=f"Bearer {token}", Content_Length=5
    )
    status, _, body = answer_to_head(server, request)
    assert "expired" in assert_problem(status, body, 401, "not_authenticated")


def test_a_good_token_for_an_unknown_upload_is_404(server: Server, part_bytes: int) -> None:
    for length in (part_bytes, 5):  # before the wrong length is looked at
        request = head(
            "PUT",
            f"/upload/{NOBODY}/part/0",
            Authorization=f"Bearer {token_for(NOBODY)}",
            Content_Length=length,
        )
        status, _, body = answer_to_head(server, request)
        assert_problem(status, body, 404, "upload_not_found")


def test_a_good_token_for_a_part_that_the_upload_lacks_is_404(
    server: Server, upload: Upload, part_bytes: int
) -> None:
    token = token_for(upload.id, 3)
    path = f"/upload/{upload.id}/part/3"
    request = head("PUT", path, Authorization=f"Bearer {token}", Content_Length=part_bytes)
    status, _, body = answer_to_head(server, request)
    assert_problem(status, body, 404, "upload_not_found")


def test_a_part_of_a_cancelled_upload_is_404(
    native: Native, upload: Upload, part_bytes: int
) -> None:
    native.cancel_raw(upload)
    for length in (part_bytes, 5):
        request = part_head(upload, 0, Content_Length=length)
        status, _, body = answer_to_head(native.server, request)
        assert_problem(status, body, 404, "upload_not_found")
    assert not is_being_written(native.server, upload, 0)


def test_a_part_of_a_complete_upload_is_409_whatever_its_length(native: Native) -> None:
    upload = native.init(size=5)
    native.put_all(upload, b"bytes")
    path = native.server.file(native.complete(upload)["final_path"])
    for length in (5, 6, 0):
        request = part_head(upload, 0, Content_Length=length)
        status, _, body = answer_to_head(native.server, request)
        assert_problem(status, body, 409, "upload_not_open")
    assert path.read_bytes() == b"bytes"


def test_a_part_of_a_finalizing_upload_is_409(waiting: Native) -> None:
    upload = waiting.init(size=5)
    waiting.put_all(upload, b"bytes")
    assert waiting.complete_raw(upload).status_code == 202
    status, _, body = answer_to_head(waiting.server, part_head(upload, 0, Content_Length=5))
    assert_problem(status, body, 409, "upload_not_open")


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB + 1, 2**31, 2**63, 10**18])
def test_another_content_length_is_refused_before_the_body(
    server: Server, upload: Upload, length: int, part_bytes: int
) -> None:
    with nothing_stored(server):
        request = part_head(upload, 0, Content_Length=length)
        status, _, body = answer_to_head(server, request)
        message = assert_problem(status, body, 400, "part_size_mismatch")
    assert message == f"Part size mismatch: expected {part_bytes}, got {length}"
    assert not is_being_written(server, upload, 0)


def test_the_last_part_expects_the_rest(server: Server, upload: Upload, part_bytes: int) -> None:
    status, _, body = answer_to_head(server, part_head(upload, 2, Content_Length=part_bytes))
    message = assert_problem(status, body, 400, "part_size_mismatch")
    assert message == f"Part size mismatch: expected 17, got {part_bytes}"


def test_a_wrong_length_is_refused_even_while_the_part_is_being_written(
    native: Native, upload: Upload
) -> None:
    with native.open_part(upload, 0):
        wait_for_writer(native.server, upload, 0)
        status, _, body = answer_to_head(native.server, part_head(upload, 0, Content_Length=5))
        assert_problem(status, body, 400, "part_size_mismatch")


@examples
@given(length=st.text("0123456789+-_ .xeE,\t\u00b2", max_size=12) | st.integers(0, 2**70).map(str))
@example("")
@example("1048576, 1048576")
@example("+1048576")
@example("0x100000")
@example("1_048_576")
@example("\u00b2")
def test_any_content_length_is_answered_and_stores_nothing(native: Native, length: str) -> None:
    upload = native.init()
    if length.strip() == str(upload.span(0)[1]):
        return
    with nothing_stored(native.server):
        status, _, _ = answer_to_head(native.server, part_head(upload, 0, Content_Length=length))
    assert status == 400


# Bodies that are not what was announced


@pytest.mark.parametrize("sent_bytes", [0, 1, 512 * KIB, MIB - 1])
def test_a_body_that_ends_early_is_refused_and_nothing_recorded(
    native: Native, upload: Upload, content: Content, sent_bytes: int, part_bytes: int
) -> None:
    with native.open_part(upload, 0) as sock:
        sock.sendall(content(sent_bytes))
        sock.shutdown(socket.SHUT_WR)
        status, _, body = read_response(sock)
    message = assert_problem(status, body, 400, "part_size_mismatch")
    assert message == (
        f"Part size mismatch: expected {part_bytes}, got {sent_bytes} before the body broke off; "
        "send the part again"
    )
    assert native.pending(upload) == [0, 1, 2]
    assert not is_being_written(native.server, upload, 0)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_connection_leaves_the_part_to_the_next_request(
    native: Native, upload: Upload, content: Content, how: str, part_bytes: int
) -> None:
    sock = native.open_part(upload, 0)
    sock.sendall(content(512 * KIB))
    wait_for_writer(native.server, upload, 0)
    cut(sock, how)
    data = content(part_bytes)
    native.put(upload, 0, data)
    assert is_stored(native.server, upload, 0, data)
    assert native.pending(upload) == [1, 2]


def test_a_body_that_stands_still_is_given_up(careful: Native) -> None:
    upload = careful.init(size=MIB)
    with careful.open_part(upload, 0) as sock:
        sock.sendall(bytes(KIB))
        status, fields, body = read_response(sock)
    assert_problem(status, body, 408, "body_stalled")
    assert int(fields["retry-after"]) > 0
    assert careful.pending(upload) == [0]
    assert not is_being_written(careful.server, upload, 0)


# Chunked encoding


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def put_chunks(native: Native, upload: Upload, part: int, body: bytes) -> tuple[int, bytes]:
    """PUT a part with a chunked body as it is; return status and body of the answer."""
    request = part_head(upload, part, Transfer_Encoding="chunked")
    status, _, answer = exchange(native.server, request + body)
    return status, answer


def test_a_chunked_body_of_the_right_length_is_stored(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data = content(part_bytes)
    pieces = (data[at : at + 100_000] for at in range(0, part_bytes, 100_000))
    response = native.put_raw(upload, 0, pieces)
    assert response.status_code == 200
    assert response.json()["checksum_sha256"] == hashlib.sha256(data).hexdigest()
    body = chunk(b"0123456789", b";name=value") + chunk(b"abcdefg") + b"0\r\nX-Note: 1\r\n\r\n"
    status, answer = put_chunks(native, upload, 2, body)
    assert status == 200, answer
    assert json.loads(answer)["uploaded_parts"] == 2
    assert is_stored(native.server, upload, 2, b"0123456789abcdefg")


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"0\r\n\r\n", "0"),
        (chunk(b"x" * 16) + b"0\r\n\r\n", "16"),
        (chunk(b"x" * 18) + b"0\r\n\r\n", "more than 17"),
        (chunk(b"x" * 17) + chunk(b"y") + b"0\r\n\r\n", "more than 17"),
        (chunk(b"x" * 3 * MIB) + b"0\r\n\r\n", "more than 17"),
    ],
    ids=["empty", "short", "long", "another chunk", "much too long"],
)
def test_a_chunked_body_of_another_length_is_refused(
    native: Native, upload: Upload, body: bytes, got: str
) -> None:
    with nothing_stored(native.server):
        status, answer = put_chunks(native, upload, 2, body)
        message = assert_problem(status, answer, 400, "part_size_mismatch")
    assert message == f"Part size mismatch: expected 17, got {got}"
    native.put(upload, 2, b"z" * 17)


@pytest.mark.parametrize(
    "body",
    [
        b"not a chunk",
        b"zz\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n",
        b"-11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n",
        b"0x11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n",
        b"11\r\n" + b"x" * 17 + b"??0\r\n\r\n",
        b"11\n" + b"x" * 17 + b"\n0\n\n",
        chunk(b"x" * 17) + b"zz\r\n",
        chunk(b"x" * 17) + b"0\r\nbroken trailer",
        chunk(b"x" * 17),
        b"11\r\nxxx",
    ],
    ids=repr,
)
def test_a_malformed_or_cut_chunk_is_refused(native: Native, upload: Upload, body: bytes) -> None:
    with nothing_stored(native.server), connect(native.server) as sock:
        sock.sendall(part_head(upload, 2, Transfer_Encoding="chunked") + body)
        sock.shutdown(socket.SHUT_WR)
        status, _, answer = read_response(sock)
    problem = json.loads(answer)
    assert (status, problem["status"]) == (400, 400)
    assert problem["code"] in {"part_size_mismatch", "malformed_request"}
    native.put(upload, 2, b"z" * 17)


def test_both_a_length_and_chunked_encoding_are_refused(native: Native, upload: Upload) -> None:
    request = part_head(upload, 2, Content_Length=17, Transfer_Encoding="chunked")
    with nothing_stored(native.server):
        status, _, _ = exchange(native.server, request + chunk(b"x" * 17) + b"0\r\n\r\n")
    assert status == 400


# Content-Digest


def test_a_right_content_digest_is_accepted(native: Native, upload: Upload) -> None:
    data = b"z" * 17
    digest = sha256_digest(data)
    unpadded = digest.replace("=:", ":").replace("sha-256:", "sha-256=:")
    for field in (digest, f"sha-512=:AAAA:, {digest}", f"{digest};note=1", unpadded):
        response = native.put_raw(upload, 2, data, headers={"Content-Digest": field})
        assert response.status_code == 200


def test_a_wrong_content_digest_records_nothing(native: Native, upload: Upload) -> None:
    headers = {"Content-Digest": sha256_digest(b"other")}
    with nothing_stored(native.server):
        response = native.put_raw(upload, 2, b"z" * 17, headers=headers)
        assert_problem(response.status_code, response.content, 400, "digest_mismatch")
        response = native.put_raw(upload, 2, iter([b"z" * 17]), headers=headers)  # chunked
        assert_problem(response.status_code, response.content, 400, "digest_mismatch")
    assert native.pending(upload) == [0, 1, 2]
    native.put(upload, 2, b"z" * 17)
    response = native.put_raw(upload, 2, b"z" * 17, headers=headers)  # of a stored part
    assert_problem(response.status_code, response.content, 400, "digest_mismatch")


@pytest.mark.parametrize("field", ["sha-512=:AAAA:", "md5=:AAAA:", "unixsum=:AAAA:"])
def test_a_digest_of_another_algorithm_is_ignored(
    native: Native, upload: Upload, field: str
) -> None:
    response = native.put_raw(upload, 2, b"z" * 17, headers={"Content-Digest": field})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "field",
    [
        "",
        "sha-256",
        "sha-256=abc",
        "sha-256=:AAAA:",  # 3 bytes
        "sha-256=:!!!!:",
        "SHA-256=:" + "A" * 43 + "=:",  # keys are in lower case (RFC 8941 section 3.1.2)
        "sha-256=:" + "A" * 43 + "=: trailing",
        "sha-256:" + "A" * 43 + "=",
    ],
)
def test_a_malformed_content_digest_is_refused(native: Native, upload: Upload, field: str) -> None:
    with nothing_stored(native.server):
        response = native.put_raw(upload, 2, b"z" * 17, headers={"Content-Digest": field})
        assert_problem(response.status_code, response.content, 400, "malformed_request")
    assert not is_being_written(native.server, upload, 2)


@examples
@given(
    field=st.text(
        st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80
    )
    | st.binary(max_size=40).map(lambda raw: f"sha-256=:{base64.b64encode(raw).decode()}:")
)
def test_any_content_digest_is_right_or_refused(native: Native, field: str) -> None:
    upload, data = native.init(size=4), b"data"
    request = part_head(upload, 0, Content_Length=4, Content_Digest=field) + data
    status, _, body = exchange(native.server, request)
    if status == 200:  # other algorithms only
        assert "sha-256=" not in field
    else:
        assert status == json.loads(body)["status"] == 400
        assert native.pending(upload) == [0]


# A part again


def test_the_same_bytes_again_give_the_first_receipt(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data = content(part_bytes)
    first = native.put(upload, 0, data)
    (before,) = rows(
        native.server, "SELECT * FROM receipts WHERE upload_id = ? AND part = 0", upload.id
    )
    assert native.put(upload, 0, data) == first
    chunked = native.put_raw(upload, 0, iter([data]))
    assert (chunked.status_code, chunked.json()) == (200, first)
    (after,) = rows(
        native.server, "SELECT * FROM receipts WHERE upload_id = ? AND part = 0", upload.id
    )
    assert before == after
    assert native.pending(upload) == [1, 2]


def test_other_bytes_are_refused_and_the_stored_ones_never_change(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data = content(part_bytes)
    native.put(upload, 0, data)
    almost = data[:-1] + bytes([data[-1] ^ 1])
    with nothing_stored(native.server):
        for other in (content(part_bytes), almost, iter([almost])):
            response = native.put_raw(upload, 0, other)
            message = assert_problem(response.status_code, response.content, 422, "part_conflict")
            assert message == "Part already uploaded with other bytes"
            assert is_stored(native.server, upload, 0, data)
    assert native.status(upload)["parts"][0]["checksum_sha256"] == hashlib.sha256(data).hexdigest()


def test_a_stored_part_is_still_checked_for_its_length(native: Native, upload: Upload) -> None:
    native.put(upload, 2, b"z" * 17)
    response = native.put_raw(upload, 2, b"z" * 16)
    assert_problem(response.status_code, response.content, 400, "part_size_mismatch")
    response = native.put_raw(upload, 2, iter([b"z" * 16]))
    assert_problem(response.status_code, response.content, 400, "part_size_mismatch")


# Two writers of a part


def test_a_second_writer_waits_and_shares_the_receipt_if_the_first_succeeds(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data, answers = content(part_bytes), []
    with native.open_part(upload, 0) as first:
        first.sendall(data[: 512 * KIB])
        wait_for_writer(native.server, upload, 0)
        second = threading.Thread(
            target=lambda: answers.append(Native(native.server).put_raw(upload, 0, data))
        )
        second.start()
        wait_for_rival(native.server, upload, 0)
        first.sendall(data[512 * KIB :])
        status, _, body = read_response(first)
        second.join()
    assert (status, answers[0].status_code) == (200, 200)
    assert json.loads(body) == answers[0].json()
    assert answers[0].json()["uploaded_parts"] == 1
    assert is_stored(native.server, upload, 0, data)


def test_a_second_writer_with_other_bytes_is_refused_after_the_first_succeeds(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data, other, answers = content(part_bytes), content(part_bytes), []
    with native.open_part(upload, 0) as first:
        first.sendall(data[: 512 * KIB])
        wait_for_writer(native.server, upload, 0)
        second = threading.Thread(
            target=lambda: answers.append(Native(native.server).put_raw(upload, 0, other))
        )
        second.start()
        wait_for_rival(native.server, upload, 0)
        first.sendall(data[512 * KIB :])
        assert read_response(first)[0] == 200
        second.join()
    assert_problem(answers[0].status_code, answers[0].content, 422, "part_conflict")
    assert is_stored(native.server, upload, 0, data)


def test_a_second_writer_takes_over_when_the_first_breaks_off(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data, answers = content(part_bytes), []
    first = native.open_part(upload, 0)
    first.sendall(content(512 * KIB))
    wait_for_writer(native.server, upload, 0)
    second = threading.Thread(
        target=lambda: answers.append(Native(native.server).put_raw(upload, 0, data))
    )
    second.start()
    wait_for_rival(native.server, upload, 0)
    cut(first, "rst")
    second.join()
    assert answers[0].status_code == 200
    assert is_stored(native.server, upload, 0, data)


def test_a_second_writer_is_told_to_come_back_after_two_seconds(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data = content(part_bytes)
    with native.open_part(upload, 0) as first:
        first.sendall(data[: 512 * KIB])
        wait_for_writer(native.server, upload, 0)
        started_at = time.monotonic()
        status, fields, body = answer_to_head(
            native.server, part_head(upload, 0, Content_Length=part_bytes)
        )
        waited_seconds = time.monotonic() - started_at
        assert_problem(status, body, 503, "upload_locked")
        assert 1.9 < waited_seconds < 8
        assert int(fields["retry-after"]) > 0
        first.sendall(data[512 * KIB :])  # the first one is not disturbed by it
        assert read_response(first)[0] == 200
    assert is_stored(native.server, upload, 0, data)


@pytest.mark.not_in("s3-staged", "s3-direct", why="leases are in the database alone")
def test_a_writer_that_receives_nothing_for_five_seconds_lets_a_retry_win(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    data = content(part_bytes)
    with native.open_part(upload, 0) as silent:
        silent.sendall(content(512 * KIB))
        wait_for_writer(native.server, upload, 0)
        silent_since = time.monotonic()
        statuses: list[int] = []
        while not statuses or statuses[-1] != 200:
            assert time.monotonic() - silent_since < 20
            statuses.append(native.put_raw(upload, 0, data).status_code)
        # Not before its five seconds are over, and soon after them.
        assert 4.5 < time.monotonic() - silent_since < 15
        assert set(statuses[:-1]) == {503}
        status, fields, body = read_response(silent)
        assert_problem(status, body, 503, "upload_locked")
        assert int(fields["retry-after"]) > 0
    assert is_stored(native.server, upload, 0, data)
    assert native.pending(upload) == [1, 2]


def test_cancel_stops_a_writer(native: Native, upload: Upload, content: Content) -> None:
    data = content(512 * KIB)
    with native.open_part(upload, 0) as sock:
        sock.sendall(data)
        wait_for_bytes(native.server, upload, 0, data[:KIB])
        assert native.cancel_raw(upload).status_code == 200
        status, _, body = read_response(sock)
    assert_problem(status, body, 404, "upload_not_found")
    assert not [path for path in native.server.staged_files() if upload.id in path.name]


# Answers that come before the body is read


def test_a_client_that_sends_20_mib_for_nothing_sees_why_and_keeps_its_connection(
    native: Native, content: Content, part_bytes: int
) -> None:
    complete = native.init(size=5)
    native.put_all(complete, b"bytes")
    native.complete(complete)
    body = content(20 * part_bytes)
    with requests.Session() as session:
        url = f"{native.server.url}/upload/{complete.id}/part/0"
        good = {"Authorization": f"Bearer {complete.tokens[0]}"}
        for headers, status in [({}, 401), (good, 409), ({"Authorization": "Bearer x"}, 401)]:
            response = session.put(url, data=body, headers=headers, timeout=30)
            assert response.status_code == response.json()["status"] == status
            follow_up = session.get(f"{native.server.url}/health", timeout=30)
            assert follow_up.json()["status"] == "OK"
        pools = session.get_adapter(url).poolmanager.pools  # type: ignore[attr-defined]
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118


def test_a_chunked_body_for_nothing_does_not_hide_the_answer(
    native: Native, upload: Upload, content: Content, part_bytes: int
) -> None:
    pieces = [content(part_bytes)] * 20
    response = native.put_raw(upload, 0, iter(pieces), token="wrong")
    assert_problem(response.status_code, response.content, 401, "not_authenticated")


def test_a_refused_part_is_followed_by_the_next_request_on_its_connection(
    server: Server, upload: Upload
) -> None:
    with connect(server) as sock:
        sock.sendall(part_head(upload, 2, Content_Length=16) + b"x" * 16)
        assert read_response(sock)[0] == 400
        sock.sendall(part_head(upload, 2, Content_Length=17) + b"x" * 17)
        assert read_response(sock)[0] == 200
        # Two requests in one packet: the second begins where the body ends.
        request = part_head(upload, 2, Content_Length=17) + b"x" * 17
        sock.sendall(request + head("GET", "/health", Connection="close"))
        with sock.makefile("rb") as answers:
            assert answers.read().count(b"HTTP/1.1 200 OK\r\n") == 2


def test_a_client_that_expects_100_continue_is_answered(server: Server, upload: Upload) -> None:
    request = part_head(upload, 2, Content_Length=17, Expect="100-continue")
    with connect(server) as sock:
        sock.sendall(request)
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"x" * 17)
        assert read_response(sock)[0] == 200


# Storage that loses what it had


def test_parts_whose_staged_file_has_vanished_are_asked_for_again(
    native: Native, part_bytes: int
) -> None:
    upload = native.init(size=part_bytes + 5)
    native.put(upload, 1, b"bytes")
    (staged,) = [path for path in native.server.staged_files() if upload.id in path.name]
    staged.unlink()
    response = native.put_raw(upload, 0, bytes(part_bytes))
    assert_problem(response.status_code, response.content, 503, "storage_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert native.pending(upload) == [0, 1]
    native.put_all(upload, bytes(part_bytes) + b"bytes")
    wait_until(lambda: native.complete_raw(upload).status_code == 200, "it is complete")
    final_path = native.status(upload)["final_path"]
    assert native.server.file(final_path).read_bytes() == bytes(part_bytes) + b"bytes"
