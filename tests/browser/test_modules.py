"""Modules of the page that touch neither network nor document, each by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.harness.server import Server

Run = Callable[..., Any]


@pytest.fixture
def run(page: Page, uploads: Server) -> Run:
    """Import a module of the page and run a function with it: ``run("meter.js", "(m) => …")``."""
    page.goto(f"{uploads.url}/upload-page")

    def runs(module: str, function: str, argument: object = None) -> Any:
        return page.evaluate(
            f"async ([url, argument]) => ({function})(await import(url), argument)",
            [f"{uploads.url}/upload-page/{module}", argument],
        )

    return runs


def test_sizes_times_and_percentages_are_short_and_never_promise_too_much(run: Run) -> None:
    told = run(
        "phrases.js",
        """({Phrases}) => {
          const words = new Phrases("en");
          return {
            sizes: [0, 1, 999, 1000, 999_600, 209_715_200, 5e13].map((n) => words.size(n)),
            speeds: [0, 12_345_678].map((n) => words.speed(n)),
            times: [0.2, 9, 41, 61, 3599, 8400, 40_000, 400_000].map((n) => words.duration(n)),
            percents: [0, 0.999, 0.99999, 1].map((n) => words.percent(n)),
          };
        }""",
    )
    assert told == {
        "sizes": ["0 bytes", "1 byte", "999 bytes", "1 kB", "1 MB", "210 MB", "50 TB"],
        "speeds": ["0 byte/s", "12.3 MB/s"],
        "times": [
            "1 sec",
            "9 sec",
            "45 sec",
            "1 min",
            "1 hr",
            "2 hr 20 min",
            "11 hr",
            "5 days",
        ],
        "percents": ["0%", "99%", "99%", "100%"],
    }


def test_words_follow_numbers_and_languages(run: Run) -> None:
    told = run(
        "phrases.js",
        """({Phrases}) => {
          const words = new Phrases("de", {unfinished: {one: "eine", other: "{count} Dateien"}});
          return [
            words.text("unfinished", {count: 1}),
            words.text("unfinished", {count: 1234}),
            words.size(1_234_567_890),
            words.text("pause"),
            words.text("percentOf", {percent: "$&", size: "{size}"}),
            new Phrases("no-such-language-tag!").size(5000),
          ];
        }""",
    )
    assert told[:4] == ["eine", "1.234 Dateien", "1,23\xa0GB", "Pause"]
    assert told[4] == "$& of {size}"  # what stands in a value stays as it is
    assert told[5] == "5 kB"


def test_the_meter_is_steady_and_says_nothing_before_it_knows(run: Run) -> None:
    told = run(
        "meter.js",
        """({Meter}) => {
          let now = 0;
          const meter = new Meter(() => now);
          const told = {unknown: [meter.speed, meter.secondsFor(1000)]};
          const go = (seconds, bytesPerSecond) => {
            for (let i = 0; i < seconds * 2; i += 1) {
              meter.add(bytesPerSecond / 2);
              now += 500;
              meter.sample();
            }
          };
          meter.add(0);
          go(1, 1000);
          told.early = [meter.speed, meter.secondsFor(1000)];
          go(4, 1000);
          told.steady = [meter.speed, meter.secondsFor(5000)];
          go(1, 4000);
          told.jump = meter.speed;
          go(30, 4000);
          told.settled = Math.round(meter.speed);
          now += 5000;
          told.still = [meter.speed, meter.secondsFor(1000)];
          meter.reset();
          told.reset = [meter.speed, meter.secondsFor(1)];
          return told;
        }""",
    )
    assert told["unknown"] == told["reset"] == told["still"] == [0, None]
    assert told["early"] == [pytest.approx(1000), None]
    assert told["steady"] == [pytest.approx(1000), pytest.approx(5)]
    assert 1000 < told["jump"] < 2500  # one fast second does not make a fast hour
    assert told["settled"] == pytest.approx(4000, rel=0.01)


def test_a_file_keeps_its_identifier_and_an_edited_one_gets_another(run: Run) -> None:
    told = run(
        "item.js",
        """({identifierOf}) => {
          const of = (path, size, lastModified) => identifierOf({size, lastModified}, path);
          const paths = ["ä.txt", "ö.txt", "a/b.txt", "ab.txt", "A.txt", "a.txt", "a".repeat(900)];
          for (let i = 0; i < 20_000; i += 1) paths.push(`folder/IMG_${i}.jpg`);
          return {
            same: of("a", 1, 2) === of("a", 1, 2),
            edited: of("a", 1, 2) === of("a", 1, 3),
            grown: of("a", 1, 2) === of("a", 2, 2),
            distinct: new Set(paths.map((path) => of(path, 5, 6))).size === paths.length,
            shape: of("ü".repeat(900), 5, 6),
          };
        }""",
    )
    assert (told["same"], told["edited"], told["grown"]) == (True, False, False)
    assert told["distinct"] is True
    assert told["shape"].isascii()
    assert len(told["shape"]) < 60


def test_chunks_grow_with_the_file_within_the_servers_bounds(run: Run) -> None:
    sizes = run(
        "item.js",
        """({chunkBytes}) => {
          const MIB = 2 ** 20, most = 50 * MIB;
          return [
            chunkBytes(1, 65536, most), chunkBytes(8000 * MIB, 65536, most),
            chunkBytes(9000 * MIB, 65536, most), chunkBytes(2 ** 40, 65536, most),
            chunkBytes(1, 65536, MIB), chunkBytes(1, 20 * MIB, most),
          ].map((bytes) => bytes / MIB);
        }""",
    )
    assert sizes == [8, 8, 16, 50, 1, 20]


def test_answers_are_sorted_into_what_passes_what_lasts_and_what_needs_a_token(run: Run) -> None:
    told = run(
        "problems.js",
        """({problemOf}) => {
          const of = (status, body = "", headers = {}) => {
            const header = (name) => headers[name] ?? null;
            const {kind, code, retryAfterSeconds} = problemOf(status, body, header);
            return [kind, code, retryAfterSeconds];
          };
          const ours = (code) => JSON.stringify({error: "words", code, status: 0});
          return [
            of(0), of(502, "<html>"), of(503, ours("upload_locked"), {"Retry-After": "2"}),
            of(503, ours("storage_full")), of(401, ours("token_expired")),
            of(403, ours("not_authorized")), of(400, ours("invalid_name")), of(413, "<html>"),
            of(414), of(500, ours("internal_error")), of(404, "null"), of(418, "teapot"),
          ];
        }""",
    )
    assert told == [
        ["passes", "unreachable", 0],
        ["passes", "unreachable", 0],
        ["passes", "upload_locked", 2],
        ["passes", "storage_full", 0],
        ["token", "token_expired", 0],
        ["token", "not_authorized", 0],
        ["lasting", "invalid_name", 0],
        ["lasting", "piece_too_large", 0],
        ["lasting", "uri_too_long", 0],
        ["lasting", "internal_error", 0],
        ["lasting", "not_found", 0],
        ["lasting", "unknown", 0],
    ]


def test_unfinished_files_are_remembered_by_account_until_they_expire(run: Run) -> None:
    told = run(
        "unfinished.js",
        """({Unfinished}) => {
          const item = (path, state, code = "internal_error") =>
            ({path, state, size: 5, identifier: `5-${path}`, problem: {code}});
          const opened = (account, seconds = 3600) => {
            const unfinished = new Unfinished();
            unfinished.open(account, "https://uploads.example.com/", seconds);
            return unfinished;
          };
          const names = (unfinished) => unfinished.left.map(({path}) => path);
          const first = opened("alice");
          const told = {empty: names(first)};
          for (const path of ["a", "b", "c", "d"]) first.follow(item(path, "running"));
          first.follow(item("e", "waiting"));
          first.follow(item("a", "done"));
          first.follow(item("b", "cancelled"));
          first.follow(item("c", "failed"));
          first.follow(item("f", "running"));
          first.follow(item("f", "failed", "invalid_name"));
          told.here = names(first);
          told.after = names(opened("alice"));
          told.others = names(opened("bob"));
          const second = opened("alice");
          second.chosen([item("c", "waiting")]);
          told.chosen = names(second);
          told.stillThere = names(opened("alice"));
          second.follow(item("c", "running"));
          second.follow(item("c", "done"));
          told.done = names(opened("alice"));
          told.expired = names(opened("alice", -1));
          second.forget(null);
          told.forgotten = names(opened("alice"));
          localStorage.setItem(Object.keys(localStorage)[0] ?? "x", "not JSON");
          told.garbage = names(opened("alice"));
          return told;
        }""",
    )
    assert told == {
        "empty": [],
        "here": [],  # what is in the list needs no reminder
        "after": ["c", "d"],
        "others": [],
        "chosen": ["d"],
        "stillThere": ["c", "d"],
        "done": ["d"],
        "expired": [],
        "forgotten": [],
        "garbage": [],
    }
