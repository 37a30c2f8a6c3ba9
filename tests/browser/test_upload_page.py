"""The upload page: whose files arrive, under which names, and what it says when they do not."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.browser.conftest import LargeFile, sha256, stored, stored_as
from tests.conftest import StartServer
from tests.harness.gate import Gate
from tests.harness.missing import lacking
from tests.harness.native import MIB
from tests.harness.nginx import Nginx, find_nginx
from tests.harness.server import Server
from tests.harness.upload_page import PATIENCE_MS, UploadPage, session
from tests.harness.wire import rows

#: More than Chromium hands out at a time when it lists a folder.
MANY = 130


def make(path: Path, size: int) -> Path:
    """Make a file of random bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """An nginx that has not been started."""
    program = find_nginx()
    if program is None:
        lacking("nginx is not installed (Debian: apt-get install nginx-light)")
    directory = tmp_path / "nginx"
    directory.mkdir()
    proxy = Nginx(program, directory)
    yield proxy
    proxy.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files in folders, and what desktops leave in them."""
    root = tmp_path / "photos"
    make(root / "cover.jpg", 1000)
    make(root / "2024" / "summer – Åland" / "a.jpg", 2000)
    make(root / "2024" / "empty.txt", 0)
    make(root / "2024" / ".DS_Store", 10)
    return root


def assert_folder_stored(server: Server, folder: Path, count: int) -> None:
    """Assert that a folder's files are there under their paths, and no litter."""
    found = [path for path in stored(server) if folder.name in path.parts]
    assert len(found) == count
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".DS_Store":
            (there,) = stored_as(server, str(path.relative_to(folder.parent)))
            assert sha256(there) == sha256(path)
            there.unlink()


# Folders, many files, several people


def test_a_chosen_folder_keeps_its_paths(
    upload_page: UploadPage, uploads: Server, folder: Path
) -> None:
    upload_page.open(uploads.url, session())
    upload_page.choose_folder(folder)
    upload_page.wait_for_done("cover.jpg", "a.jpg", "empty.txt")
    assert_folder_stored(uploads, folder, 3)


def test_a_dropped_folder_keeps_its_paths_and_loses_no_file(
    upload_page: UploadPage, uploads: Server, folder: Path
) -> None:
    for number in range(MANY):
        make(folder / "many" / f"{number:03}.txt", number)
    upload_page.open(uploads.url, session())
    upload_page.drop(folder)
    page = upload_page.page
    page.get_by_text(f"{MANY + 3} of {MANY + 3} files done").wait_for()
    # A list of so many rows is not one to look through: those that are done are put away.
    assert page.locator(".row").count() == 0
    page.get_by_role("button", name="finished files").click()
    assert page.locator(".row").count() == 100
    assert_folder_stored(uploads, folder, MANY + 3)


def test_files_may_be_dropped_beside_the_zone(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    upload_page.open(uploads.url, session())
    upload_page.drop(make(tmp_path / "beside.bin", 1000), onto="h1")
    upload_page.wait_for_done("beside.bin")


def test_the_same_name_and_size_from_two_people_are_two_files(
    browser: Browser, uploads: Server, tmp_path: Path
) -> None:
    files = [make(tmp_path / person / "film.bin", 9 * MIB) for person in ("ada", "bea")]
    for path in files:
        os.utime(path, (1_700_000_000, 1_700_000_000))
    contexts = [browser.new_context() for _ in files]
    pages = [UploadPage(context.new_page()) for context in contexts]
    for page, person, path in zip(pages, ("ada", "bea"), files, strict=True):
        page.open(uploads.url, session(person)).choose(path)
    for page in pages:
        page.wait_for_done("film.bin")
    there = stored_as(uploads, "film.bin")
    assert sorted(map(sha256, there)) == sorted(map(sha256, files))
    for context in contexts:
        context.close()


def test_a_file_that_is_in_the_list_is_not_added_again(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    path = make(tmp_path / "once.bin", 1000)
    upload_page.open(uploads.url, session())
    upload_page.choose(path)
    upload_page.wait_for_done(path.name)
    upload_page.choose(path)
    expect(upload_page.page.locator(".told")).to_have_text("1 file is in the list already")
    expect(upload_page.page.locator(".heard")).to_contain_text("in the list already")
    assert upload_page.page.locator(".row").count() == 1
    assert len(stored_as(uploads, path.name)) == 1


def test_a_cancelled_file_can_be_taken_up_again_and_removed(
    upload_page: UploadPage, uploads: Server, gate: Gate, large_file: LargeFile
) -> None:
    upload_page.open(gate.url, session("cancelling"))
    gate.allow(20 * MIB)
    upload_page.choose(large_file.path)
    gate.wait_until_held()
    upload_page.press("Cancel", large_file.name)
    upload_page.wait_for_state(large_file.name, "Cancelled")
    gate.allow(None)
    upload_page.press("Upload after all", large_file.name)
    upload_page.wait_for_done(large_file.name)
    upload_page.traffic.settle()
    assert upload_page.traffic.present  # what was there is not sent again
    upload_page.press("Remove from the list", large_file.name)
    expect(upload_page.row(large_file.name)).to_have_count(0)
    (path,) = stored_as(uploads, large_file.name)
    path.unlink()


def test_all_files_can_be_paused_resumed_and_cleared_at_once(
    upload_page: UploadPage, uploads: Server, gate: Gate, large_file: LargeFile, tmp_path: Path
) -> None:
    page = upload_page.page
    upload_page.open(gate.url, session("all"))
    gate.allow(20 * MIB)
    names = ["one.bin", "two.bin"]
    upload_page.choose(large_file.path, *(make(tmp_path / name, 1000) for name in names))
    gate.wait_until_held()
    page.get_by_role("button", name="Pause all").click()
    for name in (large_file.name, *names):
        upload_page.wait_for_state(name, "Paused")
    gate.allow(None)
    page.get_by_role("button", name="Resume all").click()
    upload_page.wait_for_done(large_file.name, *names)
    page.get_by_role("button", name="Clear finished").click()
    expect(page.locator(".row")).to_have_count(0)
    (path,) = stored_as(uploads, large_file.name)
    path.unlink()


# Signing in


def test_the_token_of_a_link_leaves_the_address_and_outlives_a_reload(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    token = session()
    upload_page.open(uploads.url, token)
    page = upload_page.page
    expect(page).to_have_url(f"{uploads.url}/upload-page")
    upload_page.reload()
    upload_page.choose(make(tmp_path / "after.bin", 10))
    upload_page.wait_for_done("after.bin")
    assert not any(token in line for line in uploads.log_lines())
    # It is the tab's: another one has to sign in for itself.
    other = page.context.new_page()
    UploadPage(other).open(uploads.url).expect_notice("you need a link or a token")


def test_without_a_token_the_page_says_how_to_get_one(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    upload_page.open(uploads.url)
    upload_page.expect_notice("you need a link or a token")
    upload_page.expect_notice("flask sessions create me --link")
    # Files may be chosen before; they wait.
    upload_page.choose(make(tmp_path / "early.bin", 10))
    upload_page.wait_for_state("early.bin", "Waiting")
    upload_page.sign_in("nonsense")
    upload_page.expect_notice("not valid")
    upload_page.sign_in(session(protocols=frozenset({"tus"})))
    upload_page.expect_notice("not for uploads here")
    link = uploads.flask("sessions", "create", "me", "--link").stdout.strip()
    upload_page.sign_in(link)  # a whole link is as good
    upload_page.wait_for_done("early.bin")
    assert upload_page.notice.is_hidden()


def test_an_expired_token_is_told_and_a_new_one_goes_on(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    upload_page.open(uploads.url, session(lifetime_seconds=0))
    upload_page.expect_notice("has expired")
    upload_page.choose(make(tmp_path / "late.bin", 10))
    upload_page.sign_in(session())
    upload_page.wait_for_done("late.bin")


def test_a_token_that_expires_on_the_way_loses_nothing(
    upload_page: UploadPage, uploads: Server, gate: Gate, large_file: LargeFile
) -> None:
    lifetime_seconds = 5
    expires_at = time.time() + lifetime_seconds
    upload_page.open(gate.url, session("expiring", lifetime_seconds))
    gate.allow(40 * MIB)
    upload_page.choose(large_file.path)
    gate.wait_until_held()
    upload_page.page.wait_for_function("(end) => Date.now() / 1000 > end", arg=expires_at + 1)
    gate.allow(None)
    upload_page.expect_notice("has expired")
    upload_page.wait_for_state(large_file.name, "Interrupted")
    stored_before = set(upload_page.traffic.stored)
    assert stored_before
    upload_page.traffic.clear()
    upload_page.sign_in(session("expiring"))
    upload_page.wait_for_done(large_file.name)
    assert not stored_before & set(upload_page.traffic.sent)
    (path,) = stored_as(uploads, large_file.name)
    assert sha256(path) == large_file.sha256
    path.unlink()


def test_another_persons_token_begins_anew_under_their_name(
    upload_page: UploadPage, uploads: Server, gate: Gate, tmp_path: Path
) -> None:
    """Half a file of one and half a file of the other would be no file at all."""
    path = make(tmp_path / "handed over.bin", 40 * MIB)
    lifetime_seconds = 5
    expires_at = time.time() + lifetime_seconds
    upload_page.open(gate.url, session("first", lifetime_seconds))
    gate.allow(20 * MIB)
    upload_page.choose(path)
    gate.wait_until_held()
    upload_page.page.wait_for_function("(end) => Date.now() / 1000 > end", arg=expires_at + 1)
    gate.allow(None)
    upload_page.expect_notice("has expired")
    upload_page.traffic.settle()
    upload_page.traffic.clear()
    upload_page.sign_in(session("second"))
    upload_page.wait_for_done(path.name)
    assert sorted(upload_page.traffic.sent) == list(range(1, 11))
    (there,) = stored_as(uploads, path.name)
    assert sha256(there) == sha256(path)


def test_where_the_protocol_is_open_to_all_no_token_is_asked_for(
    upload_page: UploadPage, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(ANONYMOUS_PROTOCOLS="resumable", DOWNLOADS="off")
    upload_page.open(server.url)
    upload_page.choose(make(tmp_path / "free.bin", 10))
    upload_page.wait_for_done("free.bin")
    assert upload_page.notice.is_hidden()
    # Nothing is offered that the server does not do.
    assert upload_page.page.get_by_role("button", name="Download").count() == 0


# What goes wrong


def test_a_file_that_is_too_large_is_told_before_a_byte_is_sent(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    upload_page.open(uploads.url, session(max_bytes=1000))
    expect(upload_page.page.get_by_text("Up to 1 kB each")).to_be_visible()
    upload_page.choose(make(tmp_path / "large.bin", 1001), make(tmp_path / "small.bin", 1000))
    upload_page.wait_for_done("small.bin")
    upload_page.wait_for_state("large.bin", "Failed")
    assert "too large" in upload_page.row("large.bin").inner_text()
    assert len(upload_page.traffic.sent) == 1


def test_a_refused_name_is_told_and_the_other_files_arrive(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    names = ["back\\slash.bin", "good.bin"]
    upload_page.open(uploads.url, session())
    upload_page.choose(*(make(tmp_path / name, 10) for name in names))
    upload_page.wait_for_done("good.bin")
    failed = upload_page.page.locator(".row[data-state=failed]")
    expect(failed).to_contain_text("Rename the file")
    assert failed.get_by_role("button").count() == 1  # to remove it: another try is in vain


def test_a_file_that_changes_on_its_way_is_told_apart_from_a_bad_network(
    upload_page: UploadPage, uploads: Server, gate: Gate, tmp_path: Path
) -> None:
    path = make(tmp_path / "growing.log", 30 * MIB)
    upload_page.open(gate.url, session())
    gate.allow(10 * MIB)
    upload_page.choose(path)
    gate.wait_until_held()
    with path.open("ab") as file:
        file.write(b"one more line")
    gate.allow(None)
    upload_page.wait_for_state(path.name, "Failed")
    assert "changed, moved or deleted" in upload_page.row(path.name).inner_text()
    assert not stored_as(uploads, path.name)


def test_a_full_disk_is_told_and_waited_for(
    upload_page: UploadPage, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(MIN_FREE_DISK_BYTES="1000T")
    upload_page.open(server.url, session())
    upload_page.choose(make(tmp_path / "waiting.bin", 10))
    upload_page.expect_notice("disk is full")
    upload_page.wait_for_state("waiting.bin", "Interrupted")
    server.stop()
    server.settings["MIN_FREE_DISK_BYTES"] = "0"
    server.start()
    upload_page.page.get_by_role("button", name="Try now").click()
    upload_page.wait_for_done("waiting.bin")


def test_a_server_that_is_down_from_the_start_is_waited_for(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    gate = Gate(uploads.port)
    upload_page.page.route("**/upload-page/settings", lambda route: route.abort())
    upload_page.open(gate.url, session())
    upload_page.expect_notice("cannot be reached")
    upload_page.choose(make(tmp_path / "patient.bin", 10))
    upload_page.page.unroute("**/upload-page/settings")
    upload_page.page.get_by_role("button", name="Try now").click()
    upload_page.wait_for_done("patient.bin")
    gate.close()


def test_a_page_that_answers_in_the_servers_place_is_not_taken_for_it(
    upload_page: UploadPage, uploads: Server, tmp_path: Path
) -> None:
    """A hotel's portal says 200 to everything; taking that for "chunk stored" loses the file."""
    page = upload_page.page
    upload_page.open(uploads.url, session())
    page.route("**/api/upload*", lambda route: route.fulfill(body="<h1>Welcome, guest!</h1>"))
    path = make(tmp_path / "travelling.bin", 5 * MIB)
    upload_page.choose(path)
    upload_page.wait_for_state(path.name, "Interrupted")
    page.unroute("**/api/upload*")
    upload_page.wait_for_done(path.name)
    (there,) = stored_as(uploads, path.name)
    assert sha256(there) == sha256(path)


def test_a_connection_that_stands_still_is_given_up_and_tried_again(
    upload_page: UploadPage, uploads: Server, gate: Gate, tmp_path: Path
) -> None:
    page = upload_page.page
    page.clock.install()
    upload_page.open(gate.url, session())
    path = make(tmp_path / "stalled.bin", 12 * MIB)
    gate.allow(6 * MIB)
    upload_page.choose(path)
    page.clock.run_for(2000)
    gate.wait_until_held()
    state = upload_page.row(path.name).locator(".state")
    for _ in range(20):  # bytes that went out before may be told of later, and count as moved
        page.clock.run_for(62_000)
        if state.text_content() == "Interrupted":
            break
    upload_page.wait_for_state(path.name, "Interrupted")
    gate.allow(None)
    page.clock.resume()
    upload_page.wait_for_done(path.name)


def test_a_file_that_the_server_still_works_on_is_not_yet_done(
    upload_page: UploadPage, start_server: StartServer, tmp_path: Path
) -> None:
    """As in a bucket, where the parts are put together at the end."""
    server = start_server(RUN_JOBS_IN_WORKERS="false", COMPLETE_WAIT_SECS="0.1")
    path = make(tmp_path / "assembled.bin", 1000)
    upload_page.open(server.url, session())
    upload_page.choose(path)
    upload_page.wait_for_state(path.name, "Sent; the server is finishing it")
    (upload,) = rows(server, "SELECT id FROM uploads")
    server.flask("uploads", "finalize", upload["id"])
    upload_page.wait_for_done(path.name)


def test_parts_that_the_server_loses_are_told_and_sent_anew(
    upload_page: UploadPage, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(RUN_JOBS_IN_WORKERS="false", COMPLETE_WAIT_SECS="0.1")
    path = make(tmp_path / "lost.bin", 1000)
    upload_page.open(server.url, session())
    upload_page.choose(path)
    upload_page.wait_for_state(path.name, "Sent; the server is finishing it")
    (staged,) = server.staged_files()
    staged.unlink()
    (upload,) = rows(server, "SELECT id FROM uploads")
    server.flask("uploads", "finalize", upload["id"], check=False)
    upload_page.wait_for_state(path.name, "Failed")
    assert "lost parts of the file" in upload_page.row(path.name).inner_text()
    upload_page.press("Try again", path.name)
    upload_page.wait_for_state(path.name, "Sent; the server is finishing it")
    (upload,) = rows(server, "SELECT id FROM uploads")
    server.flask("uploads", "finalize", upload["id"])
    upload_page.wait_for_done(path.name)
    (there,) = stored_as(server, path.name)
    assert sha256(there) == sha256(path)


def test_the_page_works_below_a_path_behind_nginx(
    upload_page: UploadPage, start_server: StartServer, nginx: Nginx, tmp_path: Path
) -> None:
    server = start_server(TRUSTED_PROXIES="127.0.0.1")
    nginx.start(
        f"""server {{
            listen 127.0.0.1:{nginx.port};
            client_max_body_size 0;
            location /files-of/ours/ {{
                proxy_pass {server.url}/;
                proxy_http_version 1.1;
                proxy_request_buffering off;
                proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-Prefix /files-of/ours;
            }}
        }}"""
    )
    path = make(tmp_path / "below.bin", 3 * MIB)
    upload_page.open(f"{nginx.url}/files-of/ours", session())
    upload_page.choose(path)
    upload_page.wait_for_done(path.name)
    with upload_page.page.expect_download() as download:
        upload_page.press("Download", path.name)
    assert sha256(download.value.path()) == sha256(path)


def test_without_resumable_js_the_page_says_what_to_do(
    upload_page: UploadPage, uploads: Server
) -> None:
    def lacking(route):
        answer = route.fetch()
        route.fulfill(json=answer.json() | {"has_library": False})

    upload_page.page.route("**/upload-page/settings", lacking)
    upload_page.open(uploads.url, session())
    upload_page.expect_notice("Resumable.js")
    upload_page.expect_notice("make assets")


def test_the_page_breaks_none_of_its_own_rules(page: Page, uploads: Server, tmp_path: Path) -> None:
    """The policy forbids inline scripts, styles, and HTML made of texts."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    page.on("console", listen)
    upload_page = UploadPage(page).open(uploads.url, session())
    name = "<img src=x onerror=alert(1)>.txt"
    upload_page.choose(make(tmp_path / name, 10))
    upload_page.wait_for_done(name)
    assert complaints == []
    expect(page).to_have_title(re.compile("Upload files"), timeout=PATIENCE_MS)
