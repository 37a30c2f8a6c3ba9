"""S3, direct: what proves a part, what is completed of it, and how it is asked for."""

from __future__ import annotations

import base64
import hashlib
import random
import zlib
from urllib.parse import urlsplit

import pytest

from app.errors import PartsLost, StorageUnavailable
from app.storage.base import StagedObject
from app.storage.s3 import MIN_PART_BYTES
from app.storage.s3_client import Clients, S3Place
from app.storage.s3_digests import Receipt, new_digest, proven

CONTENT = memoryview(b"some bytes of a part")
MD5 = hashlib.md5(CONTENT).hexdigest()
CRC32 = base64.b64encode(zlib.crc32(CONTENT).to_bytes(4, "big")).decode()


def digest_of(data, *, checksums_sent):
    digest = new_digest(checksums_sent)
    for byte in range(len(data)):
        digest.update(data[byte : byte + 1])
    return digest


@pytest.mark.parametrize(
    ("checksums_sent", "answer", "receipt"),
    [
        (False, {"ETag": f'"{MD5}"'}, Receipt(f'"{MD5}"')),
        (False, {"ETag": MD5.upper()}, Receipt(MD5.upper())),
        (True, {"ETag": '"of-a-kms"', "ChecksumCRC32": CRC32}, Receipt('"of-a-kms"', CRC32)),
    ],
)
def test_the_digest_of_what_was_sent_proves_a_part(checksums_sent, answer, receipt):
    found = proven(digest_of(CONTENT, checksums_sent=checksums_sent), answer)
    assert found == receipt
    assert Receipt.from_text(found.to_text()) == receipt


OTHER_MD5 = hashlib.md5(b"others").hexdigest()


@pytest.mark.parametrize(
    ("checksums_sent", "answer", "told"),
    [
        (False, {"ETag": OTHER_MD5}, "damaged"),
        (False, {}, "damaged"),
        (False, {"ETag": '"x"', "ServerSideEncryption": "aws:kms"}, "=when_supported"),
        (False, {"ETag": '"x"', "ServerSideEncryption": "aws:kms:dsse"}, "=when_supported"),
        (False, {"ETag": '"x"', "ServerSideEncryption": "AES256"}, "damaged"),
        (True, {"ETag": MD5, "ChecksumCRC32": "AAAAAA=="}, "damaged"),
        (True, {"ETag": MD5}, "=when_required"),
    ],
)
def test_nothing_else_proves_a_part(checksums_sent, answer, told):
    with pytest.raises(StorageUnavailable, match=told):
        proven(digest_of(CONTENT, checksums_sent=checksums_sent), answer)


@pytest.mark.parametrize(
    ("endpoint", "host", "path"),
    [
        ("http://127.0.0.1:9000", "127.0.0.1:9000", "/the-bucket/files/x"),
        ("https://minio.example.com", "minio.example.com", "/the-bucket/files/x"),
        ("", "the-bucket.s3.amazonaws.com", "/files/x"),
    ],
)
def test_the_bucket_is_in_the_path_where_an_endpoint_is_set(endpoint, host, path):
    place = S3Place("the-bucket", "us-east-1", endpoint, access_key_id="a", secret_access_key="b")
    url = urlsplit(
        Clients(place).calls.generate_presigned_url(
            "get_object", Params={"Bucket": "the-bucket", "Key": "files/x"}
        )
    )
    assert (url.netloc, url.path) == (host, path)


def test_a_part_is_sent_once_and_other_requests_are_repeated(ceph_direct):
    """Its bytes cannot be read a second time: the client has to send them again."""
    staged, asked = ceph_direct.staged(1000), []
    clients = ceph_direct.storage._bucket.clients
    for client in (clients.streams(checksums_sent=False), clients.calls):
        client.meta.events.register(
            "before-send.s3", lambda event_name, **_: asked.append(event_name.rpartition(".")[2])
        )
    with ceph_direct.server.away():
        with pytest.raises(StorageUnavailable, match="cannot be reached"):
            ceph_direct.put(staged, random.randbytes(1000))
        with pytest.raises(StorageUnavailable, match="cannot be reached"):
            ceph_direct.storage.delete("files/never-was")
    assert asked.count("UploadPart") == 1
    assert asked.count("DeleteObject") > 1
    ceph_direct.storage.discard(staged)


def test_bytes_that_replaced_acknowledged_ones_are_not_published(direct):
    """A request that was thought dead may end late: its part counts for nothing."""
    content = random.randbytes(2 * MIN_PART_BYTES + 1)
    staged = direct.staged(len(content))
    for index in range(3):
        direct.put_part(staged, content, index)
    late = random.randbytes(MIN_PART_BYTES)
    with direct.opened().writer(staged, 1, MIN_PART_BYTES, len(late)) as writer:
        writer.write(memoryview(late))
        writer.commit(durable=True)  # whose receipt is recorded by nobody
    with pytest.raises(PartsLost) as lost:
        direct.publish(staged)
    assert lost.value.indexes == (1,)
    with pytest.raises(FileNotFoundError):
        direct.read(staged.target_key)
    direct.put_part(staged, content, 1)
    assert direct.read(direct.publish(staged)) == content
    direct.storage.delete(staged.target_key)


def test_a_part_that_has_gone_is_named(direct):
    """What S3 has never had cannot be completed; the others are kept."""
    content = random.randbytes(2 * MIN_PART_BYTES + 1)
    staged = direct.staged(len(content))
    for index in (0, 2):
        direct.put_part(staged, content, index)
    never_sent = Receipt(f'"{OTHER_MD5}"').to_text()
    with pytest.raises(PartsLost) as lost:
        direct.publish(staged, direct.receipts(staged) | {1: never_sent})
    assert lost.value.indexes == (1,)
    direct.put_part(staged, content, 1)
    assert direct.read(direct.publish(staged)) == content
    direct.storage.delete(staged.target_key)


def test_a_last_part_may_be_larger_than_the_others(direct):
    content = random.randbytes(2 * MIN_PART_BYTES + 17)
    staged = direct.staged(len(content))
    direct.put(staged, content[:MIN_PART_BYTES], index=0)
    direct.put(staged, content[MIN_PART_BYTES:], index=1, offset=MIN_PART_BYTES)
    assert direct.read(direct.publish(staged)) == content
    direct.storage.delete(staged.target_key)


def test_direct_uploads_take_nothing_of_the_disk(direct):
    content = random.randbytes(MIN_PART_BYTES + 1)
    staged: StagedObject = direct.staged(len(content))
    for index in (0, 1):
        direct.put_part(staged, content, index)
        assert [path.name for path in direct.staging.rglob("*") if path.is_file()] == ["root-id"]
    direct.publish(staged)
    direct.storage.delete(staged.target_key)
