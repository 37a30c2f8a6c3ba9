"""Many tus uploads at once, in pieces of any size, over connections that break."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.native import MIB, cut
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, checksum, finished_file
from tests.live.wire import metric, until

pytestmark = pytest.mark.live

UPLOADS = 20


def upload_somehow(tus: Tus, data: bytes, seed: int) -> TusUpload:
    """Upload ``data`` as badly as a network can make it."""
    chance = random.Random(seed)
    deferred = chance.random() < 0.3
    upload = tus.create(None if deferred else len(data))
    while (offset := tus.offset(upload)) < len(data):
        size = chance.choice([1, 1000, chance.randint(1, 300_000), chance.randint(1, 3 * MIB)])
        piece = data[offset : offset + size]
        told = {}
        if deferred and offset + len(piece) == len(data):
            told["Upload-Length"] = len(data)
        kind = chance.choice(["whole", "whole", "chunked", "checked", "wrong", "cut", "twice"])
        if kind == "cut":
            sent = piece[: chance.randint(0, len(piece))]
            sock = tus.open_patch(upload, offset, len(piece))
            sock.sendall(sent)
            cut(sock, chance.choice(["fin", "rst"]))
            continue
        if kind == "wrong":
            response = tus.patch_raw(upload, offset, piece, Upload_Checksum=checksum(piece + b"!"))
            # The one before may have been cut and go on being received for a moment.
            assert response.status_code in (460, 409)
            continue
        if kind == "checked":
            algorithm = chance.choice(["sha1", "sha256", "md5"])
            told["Upload-Checksum"] = checksum(piece, algorithm)
        body = iter([piece[:7], piece[7:]]) if kind == "chunked" and len(piece) > 7 else piece
        headers = {name.replace("-", "_"): value for name, value in told.items()}
        response = tus.patch_raw(upload, offset, body, **headers)
        assert response.status_code in (204, 409)
        if kind == "twice" and response.status_code == 204:
            assert tus.patch_raw(upload, offset, piece).status_code in (409, 413)
    if deferred:
        tus.patch(upload, len(data), b"", Upload_Length=len(data))
    return upload


def test_twenty_uploads_at_once_come_out_as_they_went_in(
    server: Server, tus: Tus, content: Callable[[int], bytes]
) -> None:
    socket_bodies = 'longhaul_bodies_total{source="socket"}'
    before = metric(server, socket_bodies)
    files = [content(random.randint(1, 4 * MIB)) for _ in range(UPLOADS)]
    seeds = [random.randrange(2**32) for _ in files]
    print("seeds:", seeds)  # of a failure that is to be repeated
    with ThreadPoolExecutor(UPLOADS) as pool:
        uploads = list(pool.map(upload_somehow, [tus] * UPLOADS, files, seeds))
    for upload, data in zip(uploads, files, strict=True):
        path = until(lambda upload=upload: finished_file(server, upload))
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert metric(server, socket_bodies) > before  # the fast path was in use
