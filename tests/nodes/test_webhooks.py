"""Webhooks of several nodes: each event is told once, and at least once if a node dies over it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.native import KIB, TIMEOUT_SECONDS, Native
from tests.harness.persistent import TAKEOVER_SECONDS
from tests.harness.receiver import receiving
from tests.live.wire import until
from tests.nodes.conftest import StartCluster

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

UPLOADS, AT_ONCE = 40, 8

DELIVERIES = "SELECT upload_id, state, attempts FROM deliveries"


def test_each_event_is_told_by_one_node_however_many_look_for_what_is_due(
    start_cluster: StartCluster, content: Content
) -> None:
    """The first attempts fail, so that all nodes look for the second ones at the same time."""
    cluster, data = start_cluster(), content(KIB)

    def finish(number: int) -> str:
        native = Native(cluster.balancer)
        upload = native.init(size=len(data), webhook_url=f"{receiver.url}&upload={number}")
        native.put_all(upload, data)
        assert native.complete_raw(upload).status_code in (200, 202)
        return upload.id

    with receiving(lambda number: 503 if number == 0 else 200) as receiver:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            finished = sorted(pool.map(finish, range(UPLOADS)))
        until(
            lambda: sorted(cluster.ask(DELIVERIES)) == [(id_, "delivered", 2) for id_ in finished],
            what="each is delivered at the second attempt",
        )
        told = [receiver.next_call().document for _ in range(2 * UPLOADS)]
        assert not receiver.has_more
    assert sorted(document["file_id"] for document in told) == sorted(2 * finished)
    assert {document["event"] for document in told} == {"upload.complete"}
    for node in cluster.nodes:
        assert any('"webhook.attempt"' in line for line in node.log_lines()), "it sent nothing"


def test_what_a_node_was_telling_when_it_died_is_told_by_another_in_the_same_words(
    start_cluster: StartCluster, content: Content
) -> None:
    cluster, data, dead = start_cluster(), content(KIB), threading.Event()

    def answer(number: int) -> int:
        if number == 0:
            dead.wait(TIMEOUT_SECONDS)
        return 200

    with receiving(answer) as receiver:
        native = Native(cluster.balancer)
        upload = native.init(size=len(data), webhook_url=receiver.url)
        native.put_all(upload, data)
        assert native.complete_raw(upload).status_code in (200, 202)
        first = receiver.next_call()
        [sending] = cluster.nodes_holding(upload, "delivery%")
        cluster.nodes[sending].kill()
        dead.set()
        assert cluster.ask(DELIVERIES) == [(upload.id, "pending", 0)]
        until(lambda: receiver.has_more, seconds=TAKEOVER_SECONDS, what="another tells it")
        second = receiver.next_call()
        until(lambda: cluster.ask(DELIVERIES) == [(upload.id, "delivered", 1)])
        assert second.document == first.document
        assert not receiver.has_more
