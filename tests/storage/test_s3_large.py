"""S3: an object that is larger than what one request can carry, from a sparse file."""

from __future__ import annotations

import os

from app.storage.s3_transfer import PART_BYTES

GIB = 1 << 30

#: S3 takes at most 5 GiB in one request.
SIZE_BYTES = 5 * GIB + 4099


def test_an_object_of_more_than_5_gib_is_transferred_whole(ceph_staged):
    """Marks tell that every stretch is where it belongs; the zeros between them cost little."""
    staged = ceph_staged.staged(SIZE_BYTES)
    marks = {
        0: b"begin",
        PART_BYTES - 3: b"across",
        4 * GIB - 3: b"32 bits",
        SIZE_BYTES - 3: b"end",
    }
    with open(ceph_staged.staging / staged.staging_key, "r+b") as file:
        for offset, mark in marks.items():
            os.pwrite(file.fileno(), mark, offset)
    ceph_staged.publish(staged)
    assert ceph_staged.storage.stat(staged.target_key).size_bytes == SIZE_BYTES
    with ceph_staged.storage.open(staged.target_key) as file:
        for offset, mark in marks.items():
            file.seek(offset - min(offset, 1))
            around = min(offset, 1) * b"\0" + mark + b"\0"
            assert file.read(len(around)) == around[: SIZE_BYTES - offset + 1]
    assert ceph_staged.leftovers() == [staged.target_key]
    ceph_staged.storage.delete(staged.target_key)
