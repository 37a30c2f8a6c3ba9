"""What is counted. Right across several workers: see ``exposition``."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: Upper bounds in seconds: from a status query to a part over a slow line.
_DURATIONS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

requests_total = Counter(
    "longhaul_http_requests", "HTTP requests answered", ["method", "route", "status"]
)
request_seconds = Histogram(
    "longhaul_http_request_duration_seconds",
    "Time from the request's head to the answer",
    ["route"],
    buckets=_DURATIONS,
)
requests_running = Gauge(
    "longhaul_http_requests_running",
    "HTTP requests being answered",
    multiprocess_mode="livesum",
)
received_bytes_total = Counter(
    "longhaul_received_bytes", "Bytes of stored parts and appends", ["protocol"]
)
bodies_total = Counter(
    "longhaul_bodies",
    "Request bodies, by where their bytes were read: the socket itself, or WSGI's stream",
    ["source"],
)
sent_bytes_total = Counter(
    "longhaul_sent_bytes", "Bytes of files that were read back", ["protocol"]
)
downloads_total = Counter(
    "longhaul_downloads",
    "Files read back, by the way they went: sendfile, pieces (of other servers' files), or WSGI",
    ["way"],
)
active_downloads = Gauge(
    "longhaul_active_downloads", "Files that are being read back", multiprocess_mode="livesum"
)
uploads_created_total = Counter("longhaul_uploads_created", "Uploads created", ["protocol"])
finalizations_total = Counter(
    "longhaul_finalizations", "Attempts to finalize, by outcome", ["outcome"]
)
finalize_seconds = Histogram(
    "longhaul_finalize_duration_seconds", "Time of finalizing attempts", buckets=_DURATIONS
)
deliveries_total = Counter(
    "longhaul_webhook_deliveries", "Webhook attempts, by outcome", ["outcome"]
)
swept_total = Counter("longhaul_swept", "What the sweeper removed", ["what"])


class _UploadsByState(Collector):
    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def collect(self) -> list[GaugeMetricFamily]:
        """Return one gauge with a sample for each state."""
        family = GaugeMetricFamily("longhaul_uploads", "Uploads in the ledger", labels=["state"])
        for state, count in self._counts.items():
            family.add_metric([state], count)
        return [family]


def exposition(uploads_by_state: dict[str, int]) -> bytes:
    """Return all metrics in Prometheus' text format.

    With ``PROMETHEUS_MULTIPROC_DIR`` set (gunicorn's configuration does) the
    figures are those of all workers together, dead ones included.
    """
    registry = REGISTRY
    ledger = CollectorRegistry()
    ledger.register(_UploadsByState(uploads_by_state))
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry) + generate_latest(ledger)
