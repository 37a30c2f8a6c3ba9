"""Clients of an S3 server: how they are set up, and which one a thread may use.

botocore is boto3's client; of boto3 itself, its transfer manager, nothing fits an
upload that arrives piece by piece. It must be imported after gevent has patched
the process, or clients cannot be made (RecursionError); ``app.wiring`` imports
this package only in workers, and only where S3 was chosen.

A client belongs to the native thread that made it: in a patched process its
sockets and locks belong to that thread's hub, and another one would wait for
them forever. In a thread any number of greenlets share it. A client is made in
10 ms and takes half a MiB, because all read the same description of S3.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from botocore.config import Config
from botocore.exceptions import NoCredentialsError
from botocore.session import Session
from gevent import monkey

from app.version import VERSION

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: Also how long the server may take nothing of a body: botocore knows no limit of its own.
CONNECT_SECONDS = 5

#: An answer may take as long: completing thousands of parts, a busy disk.
READ_SECONDS = 60

#: Who asks whether the storage is well wants to know soon.
PROBE_SECONDS = 5

#: Connections kept open. Beyond it they are closed after their request.
_KEPT_CONNECTIONS = 256

#: The first attempt included; botocore pauses between them, up to seconds.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where the bucket is and how to get in; without keys the standard AWS chain finds some.

    ``endpoint`` is an URL, "" for AWS. With ``checksums_sent`` (CRC-32, in
    trailers: https only) the server itself refuses damaged bytes; without them
    ETags are compared with the MD5 of what was sent.
    """

    bucket: str
    region: str
    endpoint: str = ""
    checksums_sent: bool = False
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


@functools.cache
def _loader() -> Any:
    """Return what reads the description of S3, once: that takes 15 MiB and 0.1 s."""
    return Session().get_component("data_loader")


class _ThreadClients(monkey.get_original("threading", "local")):  # type: ignore[misc]
    """What a native thread has made; a greenlet's own ``threading.local`` would be too small."""

    def __init__(self) -> None:
        self.pid = 0
        self.made: dict[str, S3Client] = {}


class Clients:
    """The clients of one process, each for its own thread; none is used across a fork."""

    def __init__(self, place: S3Place) -> None:
        self.place = place
        self._local = _ThreadClients()

    @property
    def calls(self) -> S3Client:
        """For calls that may be repeated: botocore does, a few times."""
        return self._client("calls", READ_SECONDS, attempts=_ATTEMPTS)

    def streams(self, *, checksums_sent: bool) -> S3Client:
        """For bodies that can be read only once: nothing is repeated.

        ``checksums_sent``: as the upload was begun, whatever the setting is by now.
        """
        purpose = "checksummed streams" if checksums_sent else "streams"
        return self._client(purpose, READ_SECONDS, attempts=1, checksums_sent=checksums_sent)

    @property
    def probes(self) -> S3Client:
        """For looking whether the server is well: it has to say so soon."""
        return self._client("probes", PROBE_SECONDS, attempts=1)

    def close_here(self) -> None:
        """Close this thread's clients, before a thread ends that may have used some.

        Its hub ends with it, and then their sockets could not be closed any more.
        """
        made, self._local.made = self._local.made, {}
        for client in made.values():
            client.close()

    def _client(
        self,
        purpose: str,
        read_seconds: int,
        *,
        attempts: int,
        checksums_sent: bool | None = None,
    ) -> S3Client:
        if checksums_sent is None:
            checksums_sent = self.place.checksums_sent
        local = self._local
        if local.pid != os.getpid():
            local.pid, local.made = os.getpid(), {}
        client = local.made.get(purpose)
        if client is None:
            client = local.made[purpose] = self._new(read_seconds, attempts, checksums_sent)
        return client

    def _new(self, read_seconds: int, attempts: int, checksums_sent: bool) -> S3Client:
        place, session = self.place, Session()
        session.register_component("data_loader", _loader())
        if place.access_key_id:
            session.set_credentials(
                place.access_key_id, place.secret_access_key, place.session_token or None
            )
        # A client that was made without credentials would never look for them again.
        if session.get_credentials() is None:
            raise NoCredentialsError
        checksums: Any = "when_supported" if checksums_sent else "when_required"
        config = Config(
            region_name=place.region,
            user_agent_extra=f"longhaul/{VERSION}",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=read_seconds,
            tcp_keepalive=True,
            max_pool_connections=_KEPT_CONNECTIONS,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            request_checksum_calculation=checksums,
            response_checksum_validation="when_required",
            s3={
                # Signing bodies costs SHA-256 of every byte; checksums cost less and
                # are compared in any case. The request itself stays signed.
                "payload_signing_enabled": False,
                "addressing_style": "path" if place.endpoint else "auto",
            },
        )
        client = session.create_client("s3", endpoint_url=place.endpoint or None, config=config)
        return cast("S3Client", client)
