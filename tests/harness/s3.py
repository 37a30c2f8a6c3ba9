"""What tests need of an S3 server, whichever it is."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from app.storage.s3_client import Clients, S3Place
from tests.harness.ports import free_port

START_SECONDS = 120

#: Begins the command of a server that must not outlive a test run that is killed.
ENDING_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()

REGION = "us-east-1"


class S3Server(ABC):
    """A server with one access key. Where servers differ from AWS they say so here."""

    access_key: str
    secret_key: str

    #: Refuses wrong keys.
    checks_keys: bool
    #: Honours ``If-None-Match: *`` when an upload is completed.
    conditional_complete: bool
    #: Completes an upload with some of its parts, as AWS does.
    completes_subsets: bool
    #: Makes one whole file when several ask at the same moment to complete one upload.
    completes_once: bool
    #: Knows checksums in trailers.
    checks_checksums: bool
    #: Says NoSuchUpload of a part whose upload was aborted while it came.
    tells_of_aborts_meanwhile: bool

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._shared: dict[str, str] = {}

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def start(self) -> None:
        """Start it for the first time."""

    @abstractmethod
    def start_again(self) -> None:
        """Start it on the data it had."""

    def place(self, bucket: str, **changes: Any) -> S3Place:
        """Return how to get at a bucket."""
        given: dict[str, Any] = {
            "bucket": bucket,
            "region": REGION,
            "endpoint": self.url,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }
        return S3Place(**(given | changes))

    def client(self) -> Any:
        """Return a client that looks and meddles past the code under test."""
        return Clients(self.place("")).calls

    def new_bucket(self) -> str:
        """Make an empty bucket; return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def shared_bucket(self, purpose: str) -> str:
        """Return a bucket that well-behaved tests share: Ceph takes a second to make one."""
        if purpose not in self._shared:
            self._shared[purpose] = self.new_bucket()
        return self._shared[purpose]

    def give_up_bucket(self, purpose: str) -> None:
        """Let the next test that wants a shared bucket have a new one."""
        self._shared.pop(purpose, None)

    def settings(self, bucket: str, **changes: object) -> dict[str, object]:
        """Return the settings of a Longhaul that stores in a bucket."""
        return {
            "STORAGE_BACKEND": "s3",
            "S3_ENDPOINT": self.url,
            "S3_BUCKET": bucket,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        } | changes

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Kill it, and start it again afterwards."""
        self.kill()
        try:
            yield
        finally:
            self.start_again()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it accept connections and say nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.kill()

    def wait_until_answering(self) -> None:
        """Wait until it answers requests, whatever it says."""
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended with {self.process.returncode}"
            try:
                requests.get(self.url, timeout=5)
                return
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.02)  # starting; the loop ends by its deadline
        raise AssertionError(f"no S3 server on {self.url} after {START_SECONDS} s")


def stored(client: Any, bucket: str) -> list[str]:
    """Return what is in a bucket: the keys of its objects, and of unfinished multipart uploads."""
    found = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        found += [item["Key"] for item in page.get("Contents", [])]
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        found += [f"multipart: {item['Key']}" for item in page.get("Uploads", [])]
    return sorted(found)
