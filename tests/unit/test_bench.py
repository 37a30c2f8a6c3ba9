"""The pure pieces of the benchmark: what it reads from /proc, and what it makes of samples."""

from __future__ import annotations

import base64
import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from bench import backends, ways
from bench.__main__ import Run, arguments, cells_of, chosen_peers, text_of
from bench.cells import filesystem_type
from bench.client import Plan, Transfer, parse_response_head, put_head
from bench.goals import verdicts
from bench.loads import GIB, MIB, Durability, Load, make_load, parse_loads
from bench.memory import parse_meminfo_bytes
from bench.peers.base import Peer, Served
from bench.procs import parse_machine_cpu, parse_stat, parse_status_bytes, tree
from bench.report import Verdict, markdown_table, noise_line, throughput_table
from bench.source import Source
from bench.stats import Row, Sample, Spread, find_row, hashing_bound, rows_of
from bench.tus import TusUpload, patches

_LOAD = Load(body_bytes=50 * MIB, connections=4, count=32)


def _sample(peer: str, seconds: float, load: Load = _LOAD, number: int = 0) -> Sample:
    return Sample(
        peer=peer,
        durability=Durability.RELAXED,
        load=load,
        round=number,
        seconds=seconds,
        server_cpu_seconds=1.0,
        client_cpu_seconds=0.5,
        busy_cores=1.5,
        other_cores=0.1,
        peak_rss_bytes=100 * MIB,
        sum_peak_rss_bytes=200 * MIB,
    )


def test_a_spread_is_the_median_with_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0–3.0)"


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_rounds_of_a_cell_become_one_row() -> None:
    samples = [_sample("nginx", seconds, number=i) for i, seconds in enumerate((1.0, 4.0, 2.0))]
    (row,) = rows_of(samples)
    timed_mb = 32 * 50 * MIB / 1e6
    assert row.mb_per_second == Spread(timed_mb / 2, timed_mb / 4, timed_mb)
    assert row.server_cpu_per_gib.median == pytest.approx(GIB / (1600 * MIB))


def test_cells_of_different_loads_stay_apart() -> None:
    single = make_load(50, 1)
    rows = rows_of([_sample("nginx", 1.0), _sample("nginx", 2.0, single)])
    assert len(rows) == 2
    assert find_row(rows, "nginx", Durability.RELAXED, single) is rows[1]
    assert find_row(rows, "nginx", Durability.STRICT, single) is None


def test_the_hashing_bound_adds_the_cost_of_hashing_to_that_of_moving() -> None:
    (unhashed,) = rows_of([_sample("pump", 0.5)])  # 0.96 CPU seconds a GiB, 3,355 MB/s
    cost = 2 * GIB / 2e9 + 1.5 / (1600 / 1024)
    assert hashing_bound(2e9, 2, unhashed) == pytest.approx(2 / cost * GIB / 1e6)


def test_the_hashing_bound_is_never_above_the_unhashed_speed() -> None:
    (unhashed,) = rows_of([_sample("pump", 4.0)])
    assert hashing_bound(1e12, 2, unhashed) == unhashed.mb_per_second.greatest


def test_a_row_is_compared_with_nginx_in_the_same_cell() -> None:
    rows = rows_of([_sample("nginx", 1.0), _sample("ours", 2.0)])
    line = next(line for line in throughput_table(rows).splitlines() if "ours" in line)
    assert [cell.strip() for cell in line.split("|")][5] == "0.50"


def test_goals_without_rows_are_told_as_not_measured() -> None:
    found = verdicts(rows_of([_sample("nginx", 1.0)]), [1e9], 2, [], 1.0)
    assert found
    assert all(verdict.reached is None for verdict in found)


def test_native_parts_are_judged_by_their_share_of_the_bound() -> None:
    rows = rows_of([_sample("Longhaul native", 2.0), _sample("Longhaul pump, no hash", 1.9)])
    (verdict,) = (v for v in verdicts(rows, [1e12], 2, [], 1.0) if v.reached is not None)
    assert verdict.reached
    assert "95%" in verdict.text()


def _tus_rows(**seconds: float) -> list[Row]:
    return rows_of([_sample(peer.replace("_", " "), time) for peer, time in seconds.items()])


def _tus_verdict(rows: list[Row]) -> Verdict:
    found = verdicts(rows, [1e9], 2, [], 1.0)
    (verdict,) = (v for v in found if "Longhaul tus" in v.goal and v.measured != "-")
    return verdict


def test_tus_is_to_be_ahead_of_each_reference_server_and_not_behind_nginx() -> None:
    peers = {"@tus/server": 3.0, "tusd": 2.0, "nginx": 1.0}
    assert _tus_verdict(_tus_rows(**peers, Longhaul_tus=1.0)).reached is True
    assert _tus_verdict(_tus_rows(**peers, Longhaul_tus=1.1)).reached is False


def test_a_reference_server_that_is_missing_leaves_a_goal_open_and_is_named() -> None:
    verdict = _tus_verdict(_tus_rows(nginx=1.0, tusd=3.0, Longhaul_tus=1.0))
    assert verdict.reached is None
    assert "@tus/server not measured" in verdict.text()
    behind = _tus_verdict(_tus_rows(nginx=1.0, tusd=3.0, Longhaul_tus=2.0))
    assert behind.reached is False


def test_other_programs_beside_the_cells_are_told() -> None:
    quiet = _sample("nginx", 1.0)
    assert noise_line([quiet]) is None
    assert "1 of 2 cells" in (noise_line([quiet, replace(quiet, other_cores=1.0)]) or "")


def test_a_table_lines_its_columns_up() -> None:
    assert markdown_table(("a", "long"), [("wide one", "x")]).splitlines() == [
        "| a        | long |",
        "| -------- | ---- |",
        "| wide one | x    |",
    ]


def test_a_process_whose_name_has_brackets_and_blanks_is_read() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = ["S", "7", *"0 0 0 0 0 0 0 0 0".split(), "200", "100", "30", "10", "20", "0"]
    times = parse_stat(f"42 (a) b (c)) {' '.join(fields)}\n")
    assert (times.pid, times.parent) == (42, 7)
    assert times.cpu_seconds == pytest.approx(300 / ticks)
    assert times.reaped_cpu_seconds == pytest.approx(40 / ticks)


def test_a_process_tree_begins_with_its_root() -> None:
    assert tree(os.getpid())[0].pid == os.getpid()


def test_the_peak_of_resident_memory_is_read_in_bytes() -> None:
    status = "Name:\tpython\nVmPeak:\t  9000 kB\nVmHWM:\t  2048 kB\nThreads:\t1\n"
    assert parse_status_bytes(status, "VmHWM") == 2 * MIB
    assert parse_status_bytes("Name:\tkthreadd\n", "VmHWM") == 0


def test_waiting_for_the_disk_is_not_busy() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    busy, total = parse_machine_cpu("cpu  10 1 20 400 50 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert busy == pytest.approx(40 / ticks)
    assert total == pytest.approx(490 / ticks)


def test_free_memory_is_read_in_bytes() -> None:
    assert parse_meminfo_bytes("MemTotal: 9 kB\nMemFree:   3 kB\n", "MemFree") == 3072
    with pytest.raises(KeyError):
        parse_meminfo_bytes("MemTotal: 9 kB\n", "MemFree")


def test_the_innermost_mount_decides_about_the_filesystem() -> None:
    mountinfo = (
        "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "2 1 0:5 / /tmp rw - tmpfs tmpfs rw\n"
        "3 2 8:2 / /tmp/big\\040disk rw - xfs /dev/sdb rw\n"
    )
    assert filesystem_type(Path("/var/tmp"), mountinfo) == "ext4"
    assert filesystem_type(Path("/tmp/x"), mountinfo) == "tmpfs"
    assert filesystem_type(Path("/tmp/big disk/x"), mountinfo) == "xfs"


def test_a_load_sends_at_least_two_bodies_a_connection() -> None:
    assert make_load(50, 4).count == 32
    assert make_load(50, 4, scale=0.01).count == 8
    assert make_load(50, 4).label == "50 MiB x 4"


def test_loads_are_named_by_mebibytes_and_connections() -> None:
    assert parse_loads(["1x4"], 1.0) == [make_load(1, 4)]
    with pytest.raises(ValueError, match="is not a load"):
        parse_loads(["50"], 1.0)


def test_a_plan_survives_its_way_to_the_client() -> None:
    transfers = [Transfer(put_head("/a", 3), 0, 3, 201, tail="x", sync_path="/tmp/a")]
    plan = Plan(port=1, source="/tmp/s", connections=1, transfers=transfers)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_put_has_its_length_and_headers() -> None:
    assert put_head("/a", 3, [("X-Y", "z")]) == (
        "PUT /a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nX-Y: z\r\n\r\n"
    )


def test_patches_follow_each_other_with_their_checksums(tmp_path: Path) -> None:
    source = Source.create(tmp_path / "source", 4096)
    uploads = [TusUpload("/files/a", [0, 2]), TusUpload("/files/b", [1])]
    first, second, third = patches(uploads, source, checksum="sha1")
    assert [head.splitlines()[0] for head in (first.head, second.head, third.head)] == [
        "PATCH /files/a HTTP/1.1",
        "PATCH /files/b HTTP/1.1",
        "PATCH /files/a HTTP/1.1",
    ]
    start = source.offset(2)
    body = source.path.read_bytes()[start : start + 4096]
    digest = base64.b64encode(hashlib.sha1(body).digest()).decode()
    assert {"Upload-Offset: 4096", f"Upload-Checksum: sha1 {digest}"} <= set(
        third.head.splitlines()
    )
    assert (third.offset, third.length, third.status) == (start, 4096, 204)


class _Absent(Peer):
    name = "absent"

    def missing(self) -> str | None:
        return "it is not installed"

    def serve(self, directory: Path, load: Load, source: Source) -> AbstractContextManager[Served]:
        raise NotImplementedError


def test_a_peer_that_is_missing_is_named_in_what_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.peers.ALL", (_Absent(Durability.RELAXED), _Sink(Durability.NONE)))
    run = Run(samples=[_sample("sink", 1.0)], hash_rates=[1e9])
    assert [peer.name for peer in chosen_peers("", None, run.left_out)] == ["sink"]
    assert "LEFT OUT: absent (relaxed): it is not installed" in text_of(run, arguments([]), {})


class _Sink(_Absent):
    name = "sink"

    def missing(self) -> str | None:
        return None


def test_a_receiver_is_measured_with_its_own_loads_unless_others_are_named() -> None:
    peer = _Sink(Durability.NONE)
    assert [load.label for _, load in cells_of([peer], "", 1.0)] == [
        "50 MiB x 1",
        "50 MiB x 4",
        "1 MiB x 1",
        "1 MiB x 4",
    ]
    assert cells_of([peer], "5x4", 1.0) == [(peer, make_load(5, 4))]


def test_an_answer_that_closes_the_connection_is_noticed() -> None:
    head = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nConnection: close"
    assert parse_response_head(head) == (201, 5, False)
    assert parse_response_head(b"HTTP/1.1 204 No Content") == (204, 0, True)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
    assert parse_response_head(chunked) == (200, None, True)


def test_neighbouring_bodies_of_the_source_differ(tmp_path: Path) -> None:
    source = Source.create(tmp_path / "source", 4096)
    assert source.sha256([0]) != source.sha256([1])
    assert source.sha256([0, 1]) != source.sha256([1, 0])


def test_whole_files_are_compared_with_the_command_they_stand_beside() -> None:
    found = {way.name: [ways.Copying(2.0)] for way in ways.WAYS}
    found["Longhaul to S3, direct"] = [
        ways.Copying(seconds, peak_rss_bytes=peak * MIB)
        for seconds, peak in ((5.0, 90), (4.0, 80), (3.0, 70))
    ]

    table = backends.table_of(found)

    assert "4.00 (3.00–5.00)" in table
    assert "0.50 x boto3 upload_file" in table
    assert "| 90 " in table
    verdicts = [verdict.text() for verdict in backends.verdicts_of(found)]
    assert "- MISSED: 2 GiB: Longhaul to S3, direct: at least 0.9 x boto3 upload_file: 0.50 x" in (
        verdicts
    )
    assert sum(verdict.startswith("- reached") for verdict in verdicts) == len(verdicts) - 1
