"""Nodes with disks of their own: an upload belongs to the node it was begun on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.clients.tus_js import TusJsInNode
from tests.harness.cluster import Cluster
from tests.harness.native import MIB, Native
from tests.harness.resumable import File, Resumable
from tests.harness.server import API_KEY
from tests.harness.tus import Tus, TusUpload
from tests.live.wire import until
from tests.nodes.conftest import StartCluster

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]


def until_both(cluster: Cluster, words: str) -> Iterator[int]:
    """Count tries, until both nodes have seen requests with ``words``: chance decides which."""
    for number in range(100):
        yield number
        if all(cluster.requests_seen(node, words) for node in (0, 1)):
            return
    pytest.fail("all went to one node")


def test_an_upload_that_reaches_the_wrong_node_is_sent_away_and_loses_nothing(
    start_cluster: StartCluster, content: Content
) -> None:
    cluster = start_cluster(shared_storage=False)
    right, wrong = (Native(node) for node in cluster.nodes)
    data = content(3 * MIB)
    upload = right.init(size=len(data))
    right.put(upload, 0, data[:MIB])
    refused = wrong.put_raw(upload, 1, data[MIB : 2 * MIB])
    assert refused.status_code == 503
    assert refused.json()["code"] == "wrong_root"
    assert int(refused.headers["Retry-After"]) > 0
    wrong.put(upload, 0, data[:MIB])  # received before: its receipt is in the ledger
    assert wrong.pending(upload) == [1, 2]
    assert cluster.nodes[1].staged_files() == []
    right.put_all(upload, data)
    # Whoever is asked, the node that has the bytes finishes.
    assert wrong.complete_raw(upload).status_code in (200, 202)
    status = until(lambda: _complete(right.status(upload)))
    assert Path(status["final_path"]).read_bytes() == data
    assert wrong.cancel_raw(upload).status_code == 200
    assert Path(status["final_path"]).exists(), "only the node that has it can remove it"
    right.server.flask("uploads", "cleanup")
    until(lambda: not Path(status["final_path"]).exists())


def test_an_upload_that_has_received_nothing_moves_to_the_node_that_gets_its_first_part(
    start_cluster: StartCluster, content: Content
) -> None:
    cluster = start_cluster(shared_storage=False)
    creator, taker = (Native(node) for node in cluster.nodes)
    data = content(2 * MIB)
    upload = creator.init(size=len(data))
    assert len(cluster.nodes[0].staged_files()) == 1
    taker.put_all(upload, data)
    assert len(cluster.nodes[1].staged_files()) == 1
    refused = creator.put_raw(upload, 1, data[MIB:])
    assert refused.status_code == 200, "received before: its receipt is in the ledger"
    status = taker.complete(upload)
    assert Path(status["final_path"]).read_bytes() == data
    assert Path(status["final_path"]).is_relative_to(cluster.nodes[1].uploads)


def test_behind_nginx_an_upload_stays_with_one_node_through_all_its_requests(
    start_cluster: StartCluster, content: Content
) -> None:
    """By the configuration that we ship: which node creates an upload is chance."""
    cluster = start_cluster(shared_storage=False, balancing="by upload")
    native = Native(cluster.balancer)
    for _ in range(6):
        data = content(3 * MIB)
        upload = native.init(size=len(data))
        native.put_all(upload, data)
        native.complete(upload)
        downloaded = native.request("GET", f"/download/{upload.id}")
        assert downloaded.content == data
    seen = [cluster.requests_seen(node, "/part/") for node in (0, 1)]
    assert sum(seen) == 18
    assert all(count % 3 == 0 for count in seen), "no upload was torn apart"


@pytest.mark.parametrize("waits", [False, True])
def test_behind_nginx_uploads_that_are_sent_beside_each_other_are_joined(
    start_cluster: StartCluster, content: Content, waits: bool
) -> None:
    """All of a client's lie on one node, whichever has created them. ``waits``: the final
    upload is created before any of its partial ones has a byte."""
    cluster = start_cluster(shared_storage=False, balancing="by upload")
    pieces = [content(300_000), content(1), content(MIB)]
    for number in until_both(cluster, '"PATCH"'):
        tus = Tus(cluster.balancer)
        # As a proxy before this one would tell: each client on a node of its own.
        tus.usual["X-Forwarded-For"] = f"192.0.2.{number}"
        partials = [tus.create(len(piece), Upload_Concat="partial") for piece in pieces]
        assert len({partial.id[:8] for partial in partials}) == 1
        final = _joined(tus, partials, "final ;{paths}") if waits else None
        with ThreadPoolExecutor() as pool:
            list(pool.map(tus.patch, partials, [0, 0, 0], pieces))
        final = final or _joined(tus, partials)
        assert final.id[:8] == partials[0].id[:8]
        until(lambda final=final: "finalized" in cluster.events(final), what="it is finalized")
        assert tus.request("GET", final).content == b"".join(pieces)
        assert tus.delete(final).status_code == 204
    seen = [cluster.requests_seen(node, '"PATCH"') for node in (0, 1)]
    assert all(count % 3 == 0 for count in seen), "no file was torn apart"


@pytest.mark.parametrize("concat", [None, "partial"])
def test_behind_nginx_bytes_that_come_with_a_creation_are_where_the_rest_goes(
    start_cluster: StartCluster, content: Content, concat: str | None
) -> None:
    cluster = start_cluster(shared_storage=False, balancing="by upload")
    data = content(300_000)
    for number in until_both(cluster, '"PATCH"'):
        tus = Tus(cluster.balancer)
        tus.usual["X-Forwarded-For"] = f"192.0.2.{number}:{50_000 + number}, 10.0.0.1"
        upload = tus.create(len(data), data[:100_000], Upload_Concat=concat)
        assert tus.patch(upload, 100_000, data[100_000:]) == len(data)
        if concat is not None:
            upload = _joined(tus, [upload])
        until(lambda upload=upload: "finalized" in cluster.events(upload), what="it is finalized")
        assert tus.request("GET", upload).content == data


def test_behind_nginx_a_file_of_chunks_is_read_from_where_they_went(
    start_cluster: StartCluster, content: Content
) -> None:
    """Chunks find their node by the file's identifier, a reader by the upload's id."""
    cluster = start_cluster(shared_storage=False, balancing="by upload")
    resumable = Resumable(cluster.balancer)
    native = Native(cluster.balancer)
    for _ in until_both(cluster, '"POST"'):
        data = content(300_000)
        file = File(data, chunk_size=100_000)
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(resumable.octet, [file] * 3, file.numbers))
        assert native.request("GET", f"/download/{answers[0]['id']}").content == data


def _joined(tus: Tus, partials: list[TusUpload], form: str = "final;{urls}") -> TusUpload:
    urls = " ".join(partial.url for partial in partials)
    paths = " ".join(partial.path for partial in partials)
    answer = tus.create_raw({"Upload-Concat": form.format(urls=urls, paths=paths)})
    assert answer.status_code == 201, answer.text
    return TusUpload(answer.headers["Location"])


def test_tus_js_client_sends_a_file_in_several_uploads_through_nginx(
    start_cluster: StartCluster, content: Content, tmp_path: Path
) -> None:
    cluster = start_cluster(shared_storage=False, balancing="by upload")
    data = content(3 * MIB + 1)
    (tmp_path / "movie.mp4").write_bytes(data)
    for number in range(4):
        headers = {"X-API-Key": API_KEY, "X-Forwarded-For": f"198.51.100.{number}"}
        with closing(TusJsInNode(headers, tmp_path)) as client:
            url = client.upload(
                f"{cluster.balancer.url}/files",
                tmp_path / "movie.mp4",
                parallelUploads=4,
                chunkSize=300_000,
            )
        final = TusUpload(url)
        until(lambda final=final: "finalized" in cluster.events(final), what="it is finalized")
        assert Tus(cluster.balancer).request("GET", final).content == data


def test_a_node_sweeps_only_what_is_on_its_own_disk(
    start_cluster: StartCluster, content: Content
) -> None:
    cluster = start_cluster(
        shared_storage=False, UPLOAD_TTL_HOURS=0.0003, RUN_JOBS_IN_WORKERS="false"
    )
    first, second = cluster.nodes
    upload = Native(first).init(size=2 * MIB)
    assert len(first.staged_files()) == 1
    until(lambda: Native(second).request("GET", f"/upload/{upload.id}/status").status_code == 404)
    assert upload.id not in second.flask("uploads", "cleanup").stdout
    assert len(first.staged_files()) == 1
    assert upload.id in first.flask("uploads", "cleanup").stdout
    assert first.staged_files() == []


def _complete(status: dict[str, object]) -> dict[str, object] | None:
    return status if status["status"] == "complete" else None
