"""Clients that send the parts of one upload through a cluster until each is acknowledged."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.harness.cluster import Cluster
from tests.harness.native import Native

#: A dead node's leases run out after 6 s; a busy machine takes a while more.
TAKEOVER_SECONDS = 60.0


class Persistent:
    """Whatever happens, they come again. They go through the balancer."""

    def __init__(self, cluster: Cluster, data: bytes) -> None:
        self.cluster = cluster
        self.data = data
        self.upload = Native(cluster.balancer).init(size=len(data))
        #: Part → the SHA-256 that its acknowledgement told.
        self.acknowledged: dict[int, str] = {}
        #: The status of every other answer.
        self.refusals: set[int] = set()

    def send_all(self, threads: int = 4) -> None:
        """Send every part that is not acknowledged yet; return when all are."""
        parts = [part for part in range(len(self.upload.tokens)) if part not in self.acknowledged]
        random.shuffle(parts)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._send, parts))

    def _send(self, part: int) -> None:
        offset, length = self.upload.span(part)
        client = Native(self.cluster.balancer)
        give_up_at = time.monotonic() + TAKEOVER_SECONDS
        while time.monotonic() < give_up_at:
            try:
                answer = client.put_raw(self.upload, part, self.data[offset : offset + length])
            except requests.RequestException:
                continue  # the node died under it
            if answer.status_code == 200:
                self.acknowledged[part] = answer.json()["checksum_sha256"]
                return
            self.refusals.add(answer.status_code)
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0
            else:  # of nginx, whose node has died
                assert answer.status_code == 502, answer.text
            time.sleep(0.05)  # Retry-After, made short
        raise AssertionError(f"part {part} was never acknowledged")
