"""S3: every trouble has a message an operator can act on, without secrets; and it passes."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import botocore.auth
import pytest
from botocore.exceptions import ClientError

from app.errors import StorageFault, StorageFull, StorageUnavailable
from app.storage.s3 import S3Storage
from app.storage.s3_client import PROBE_SECONDS
from app.storage.s3_errors import contract_error
from tests.harness.ports import free_port

#: More than the probe's patience, on a machine that is several times slower.
SOON_SECONDS = 6 * PROBE_SECONDS


@pytest.fixture
def open_storage(ceph, tmp_path):
    """Open a storage on Ceph's bucket, with changes: ``open_storage(bucket="missing")``."""

    def opened(**changes):
        place = ceph.place(changes.pop("bucket", ceph.shared_bucket("conformance")), **changes)
        return S3Storage(place, str(tmp_path), "an-instance")

    return opened


def problem(act):
    """Return the message of the StorageUnavailable that ``act`` raises, and its cause."""
    with pytest.raises(StorageUnavailable) as caught:
        act()
    return caught.value.message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"access_key_id": "AKIA-nobody"}, "does not know the access key"),
        ({"secret_access_key": "hunter2"}, "refuses the secret key"),
        ({"bucket": "never-made"}, "does not exist: create it, or check S3_BUCKET"),
        ({"endpoint": f"http://127.0.0.1:{free_port()}"}, "cannot be reached"),
        ({"endpoint": "http://no-such-host.invalid"}, "cannot be reached"),
    ],
)
def test_what_is_wrong_at_the_start_is_told_without_names_and_secrets(open_storage, changes, told):
    message = problem(lambda: open_storage(**changes))
    assert told in message
    for secret in (*changes.values(), "127.0.0.1"):
        assert str(secret) not in message


def test_no_rights_to_the_bucket_are_told(ceph, open_storage):
    access_key, secret_key = ceph.new_user("stranger")
    keys = {"access_key_id": access_key, "secret_access_key": secret_key}
    assert "needs the right to" in problem(lambda: open_storage(**keys))


def test_a_bucket_that_can_only_be_read_is_told(ceph, tmp_path):
    access_key, secret_key = ceph.new_user("reader")
    bucket, client = ceph.new_bucket(), ceph.client()
    S3Storage(ceph.place(bucket), str(tmp_path), "an-instance")
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["arn:aws:iam:::user/reader"]},
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": resources,
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    keys = {"access_key_id": access_key, "secret_access_key": secret_key}
    storage = S3Storage(ceph.place(bucket, **keys), str(tmp_path), "an-instance")
    assert "needs the right to" in problem(storage.check)
    assert "needs the right to" in problem(storage.check)  # it is not forgotten

    statement["Action"] = ["s3:*"]
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    give_up_at = time.monotonic() + SOON_SECONDS
    while True:
        try:
            assert storage.check() > 0
            break
        except StorageUnavailable:  # the gateway remembers policies for a moment
            assert time.monotonic() < give_up_at


def test_clocks_that_differ_are_told(open_storage, monkeypatch):
    storage = open_storage()
    right = botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda *arguments, **named: right(*arguments, **named) - timedelta(hours=1),
    )
    assert "clocks" in problem(storage.check)
    monkeypatch.undo()
    assert storage.check() > 0


def test_a_server_that_is_down_is_told_and_used_again_when_it_is_back(ceph, open_storage):
    storage = open_storage()
    with ceph.away():
        assert "cannot be reached" in problem(storage.check)
        assert "cannot be reached" in problem(open_storage)
    assert storage.check() > 0
    assert open_storage().root_id == storage.root_id


def test_a_server_that_says_nothing_is_told_soon(ceph, open_storage):
    storage = open_storage()
    with ceph.frozen():
        began_at = time.monotonic()
        assert "does not answer" in problem(storage.check)
        assert time.monotonic() - began_at < SOON_SECONDS
    assert storage.check() > 0


def test_a_broken_staging_disk_is_told_though_the_bucket_is_well(ceph_direct):
    storage = ceph_direct.storage
    marker = ceph_direct.staging / ".staging/root-id"
    content = marker.read_bytes()
    marker.unlink()
    assert "marker file is missing" in problem(storage.check)
    assert storage.check(storage.root_id) is None
    marker.write_bytes(content)
    assert storage.check() > 0


def test_the_right_to_write_is_not_tried_at_every_look(ceph, open_storage, monkeypatch):
    storage, asked = open_storage(), []
    storage._bucket.clients.probes.meta.events.register(
        "before-send.s3", lambda event_name, **_: asked.append(event_name.rpartition(".")[2])
    )
    for _ in range(3):
        storage.check()
    assert asked.count("CreateMultipartUpload") == 1
    assert asked.count("GetObject") == 3


class TestKeysFromAwsChain:
    """Keys that are no settings of ours: found as AWS's tools find them."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def opened(self, open_storage):
        return open_storage(access_key_id="", secret_access_key="")

    def test_none_at_all_are_told_and_looked_for_again(self, ceph, open_storage, tmp_path):
        assert "No S3 credentials were found" in problem(lambda: self.opened(open_storage))
        (tmp_path / "credentials").write_text(
            f"[default]\naws_access_key_id={ceph.access_key}\n"
            f"aws_secret_access_key={ceph.secret_key}\n"
        )
        assert self.opened(open_storage).check() > 0

    def test_those_of_the_environment_are_used(self, ceph, open_storage, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_key)
        assert self.opened(open_storage).check() > 0

    def test_half_of_a_pair_is_told(self, ceph, open_storage, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
        assert "No S3 credentials were found" in problem(lambda: self.opened(open_storage))

    def test_a_profile_that_is_not_there_is_told(self, open_storage, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        assert "No S3 credentials were found" in problem(lambda: self.opened(open_storage))


class TestHttps:
    """Over https certificates count, and checksums can go in trailers."""

    def test_a_certificate_nobody_vouches_for_is_told(self, ceph, open_storage):
        assert "not trusted" in problem(lambda: open_storage(endpoint=ceph.tls_url))

    def test_a_server_that_does_not_talk_https_is_told(self, ceph, open_storage):
        endpoint = ceph.url.replace("http:", "https:")
        assert "is S3_ENDPOINT right?" in problem(lambda: open_storage(endpoint=endpoint))

    def test_checksums_in_trailers_are_told_where_the_server_refuses_them(
        self, ceph, open_storage, monkeypatch
    ):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ceph.certificate))
        trailers = {"endpoint": ceph.tls_url, "checksums_sent": True}
        open_storage()  # makes the marker, which takes a trailer, too
        storage = open_storage(**trailers)
        staged = storage.root_id
        assert staged
        message = problem(lambda: storage._bucket.put_new("x", b"y"))
        assert "S3_REQUEST_CHECKSUMS=when_required" in message


@pytest.mark.parametrize(
    ("code", "status", "error", "told"),
    [
        ("AccessDenied", 403, StorageUnavailable, "needs the right"),
        ("ExpiredToken", 400, StorageUnavailable, "AWS_SESSION_TOKEN"),
        ("PermanentRedirect", 301, StorageUnavailable, "S3_REGION"),
        ("AuthorizationHeaderMalformed", 400, StorageUnavailable, "S3_REGION"),
        ("MissingContentLength", 411, StorageUnavailable, "when_required"),
        ("BadDigest", 400, StorageUnavailable, "damaged"),
        ("SlowDown", 503, StorageUnavailable, "does not answer"),
        ("InternalError", 500, StorageUnavailable, "does not answer"),
        ("NeverHeardOf", 418, StorageUnavailable, "does not answer"),
        ("XMinioStorageFull", 507, StorageFull, "free space"),
        ("QuotaExceeded", 403, StorageFull, "free space"),
        ("EntityTooSmall", 400, StorageFault, "too small"),
        ("KeyTooLongError", 400, StorageFault, "too long"),
    ],
)
def test_answers_that_no_server_here_gives_have_their_meaning(code, status, error, told):
    """Codes of AWS, MinIO and R2 that the tests' servers cannot be made to give."""
    answer = {
        "Error": {"Code": code, "Message": "vendor words about key AKIA1"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    found = contract_error(ClientError(answer, "PutObject"))
    assert type(found) is error
    assert told in found.message
    assert "AKIA1" not in found.message
