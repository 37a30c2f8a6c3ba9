"""A client that goes silent within a body (tus 1.0.0, Core Protocol, "PATCH")."""

from __future__ import annotations

import pytest

from tests.harness.native import read_response
from tests.harness.server import Server
from tests.harness.tus import Tus

pytestmark = pytest.mark.once(why="bodies stall in the network")


def test_a_stalled_body_ends_the_connection_and_what_arrived_counts(limited: Server) -> None:
    tus = Tus(limited, key=None)
    upload = tus.create(1000)
    with tus.open_patch(upload, 0, 1000) as sock:
        sock.sendall(b"x" * 400)
        status, _, _ = read_response(sock)
        assert status == 503  # not 408: tus-js-client would give up
        assert sock.recv(1) == b""
    assert tus.offset(upload) == 400
