"""The log: one form for all lines, the request's id in each, no secret in any."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.event
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.logs import configure, redact, redact_text, request_id

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ1cGxvYWRfaWQiOiJhIn0.c2lnbmF0dXJl-_x"

log = structlog.get_logger("app.here")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_json_line_begins_with_what_one_looks_for(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    structlog.contextvars.bind_contextvars(request_id="r-1")
    log.info("part stored", index=3, size=2**40, ok=True, nothing=None)
    [line] = lines(capsys)
    assert list(line)[:4] == ["timestamp", "level", "event", "request_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "event": "part stored",
        "request_id": "r-1",
        "index": 3,
        "size": 2**40,
        "ok": True,
        "nothing": None,
        "logger": "app.here",
    }


def test_libraries_lines_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    structlog.contextvars.bind_contextvars(request_id="r-2")
    logging.getLogger("other.package").warning("%s is %d", "x", 5)
    [line] = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "event": "x is 5",
        "request_id": "r-2",
        "logger": "other.package",
    }


class Full(io.StringIO):
    """A stream that takes nothing, as a file on a full disk."""

    tries = 0

    def write(self, text: str, /) -> int:
        self.tries += 1
        raise OSError(errno.ENOSPC, "no space")


def test_a_line_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Full()
    monkeypatch.setattr("sys.stderr", full)
    configure("debug", "json")
    for write in (log.debug, log.info, log.warning, log.error, log.critical):
        write("nobody reads this")
    try:
        raise ValueError
    except ValueError:
        log.exception("nor this")
    assert full.tries == 6


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", "json")
    log.info("no")
    logging.getLogger("other.package").info("no")
    log.warning("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]


def test_libraries_that_tell_addresses_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug", "json")
    logging.getLogger("httpx").info("HTTP Request: POST https://user.example/hook?sig=abc")
    logging.getLogger("alembic.runtime.migration").info("Will assume transactional DDL.")
    assert lines(capsys) == []


def test_configuring_again_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "console")
    configure("info", "json")
    log.info("once")
    assert [line["event"] for line in lines(capsys)] == ["once"]


def test_each_greenlet_has_its_own_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    both_bound = gevent.event.Event()

    def serve(name: str) -> None:
        structlog.contextvars.bind_contextvars(request_id=name)
        if name == "second":
            both_bound.set()
        both_bound.wait()
        log.info("served", name=name)

    gevent.joinall([gevent.spawn(serve, name) for name in ("first", "second")], raise_error=True)
    log.info("outside")
    served = lines(capsys)
    assert {(line["name"], line["request_id"]) for line in served[:2]} == {
        ("first", "first"),
        ("second", "second"),
    }
    assert "request_id" not in served[2]


def test_an_exception_is_told_with_its_traceback_and_without_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("info", "json")
    try:
        raise OSError("GET https://u:hunter2@host/x?token=hunter3&part=1 failed")
    except OSError:
        log.exception("storage failed")
        logging.getLogger("gunicorn.error").exception("Error handling request /x?token=hunter4")
    ours, theirs = lines(capsys)
    assert "OSError: GET https://u:***@host/x?token=***&part=1 failed" in ours["exception"]
    assert theirs["event"] == "Error handling request /x?token=***"
    assert "hunter" not in json.dumps([ours, theirs])


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": "hidden"},
        {"x-api-key": "hidden"},
        {"X_API_KEY": "hidden"},
        {"token": "hidden"},
        {"upload_token": "hidden"},
        {"webhook_secret": "hidden"},
        {"password": b"hidden"},
        {"headers": {"Authorization": "Bearer hidden", "X-Api-Key": "hidden"}},
        {"headers": [("X-API-Key", "hidden"), ("Cookie", "a=hidden")]},
        {"deep": [{"deeper": ({"secret": ["hidden"]},)}]},
        {"header": "X-API-Key: hidden"},
        {"text": "Authorization: Bearer hidden-hidden-hidden"},
        {"url": "/upload/x/part/1?token=hidden&n=1"},
        {"url": "s3://b/k?X-Amz-Signature=hidden&X-Amz-Credential=hidden"},
        {"uri": "postgresql+psycopg://user:hidden@host/db"},
        {"dump": "{'upload_token': 'hidden', 'n': 1}"},
        {"query": b"?api_key=hidden"},
        {"error": ValueError("jwt_secret=hidden")},
    ],
)
def test_secrets_are_blanked_out_wherever_they_stand(fields: dict[str, Any]) -> None:
    redacted = redact(None, "info", {"event": "x", **fields})
    assert "hidden" not in json.dumps(redacted)
    assert "***" in json.dumps(redacted)


@pytest.mark.parametrize("text", [JWT, f"token {JWT} has expired", f"/p?t={JWT}&x=1", f"({JWT})"])
def test_a_jwt_is_recognised_by_its_look(text: str) -> None:
    assert redact_text(text) == text.replace(JWT, "***")


@pytest.mark.parametrize(
    "text",
    [
        "staging_key=.staging/ab/cd.partial target_key=files/ab_movie.mp4",
        "no bearer token was given",
        "tokens: 3 of 4",
        "part 3 of 20972 stored at http://localhost:3000/upload/550e8400/part/3?n=1",
        "compass=north keyboard=de",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


@given(st.text(alphabet="a-_:/=.@ \n'\"\\eyJtoken&", max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact_text(f"token=abc {text}")
    assert redact_text(once) == once


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        f"beaRer {'x' * 16}",
        f"Ba\u017fic\t{'x' * 16}",
        "ftp://me:mine@host",
        "Token=1",
        "cookie : 1",
    ],
)
def test_each_kind_of_secret_is_looked_for(text: str) -> None:
    assert "***" in redact_text(text)


def test_a_clients_text_cannot_forge_a_console_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "console")
    log.info("bad name\n2026-01-01 [error] forged", name="a\r\nb\x1b[31mred\x9b")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "\x1b" not in written
    assert "\x9b" not in written
    assert r"bad name\n2026-01-01 [error] forged" in written


def test_console_lines_show_exceptions_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "console")
    try:
        raise ValueError("secret=hidden")
    except ValueError:
        log.exception("it broke")
    written = capsys.readouterr().err
    assert "it broke" in written
    assert "\nValueError: secret=***\n" in written


@pytest.mark.parametrize("given_id", ["a", "0f-A_9.z", "x" * 64])
def test_a_harmless_request_id_is_kept(given_id: str) -> None:
    assert request_id(given_id) == given_id


@pytest.mark.parametrize("given_id", [None, "", "x" * 65, "a b", "a\n", "ü", "<script>", "a/b"])
def test_any_other_request_id_is_replaced(given_id: str | None) -> None:
    first, second = request_id(given_id), request_id(given_id)
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert first != second
