"""SMB: servers and shares that refuse. Each refusal has words of its own, none has secrets."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import replace

import pytest

from app.errors import StorageFault, StorageFull, StorageUnavailable
from app.storage import smb_share
from app.storage.smb import SmbStorage
from app.storage.smb_errors import LoginRefused
from app.storage.smb_share import Share

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def own(own_samba, smb_backend):
    """A share of a server that the test may configure."""
    backend = smb_backend(own_samba, "own")
    yield backend
    backend.close()


def refusal(backend, **changes):
    """Return the error with which a storage of this target cannot be made."""
    with pytest.raises(StorageUnavailable) as raised:
        SmbStorage(backend.share(**changes), backend.path, "an-instance")
    error = raised.value
    for secret in (backend.samba.user, backend.samba.password, "127.0.0.1", "share/"):
        assert secret not in error.message
    return error


def test_a_wrong_password_is_told(own):
    error = refusal(own, password="wrong")
    assert "check SMB_USER and SMB_PASS" in error.message
    assert isinstance(error, LoginRefused)
    assert "LOGON_FAILURE" in str(error.__cause__)
    assert "wrong" not in str(error.__cause__)


def test_an_unknown_user_is_told(own):
    assert "check SMB_USER and SMB_PASS" in refusal(own, user="nobody-knows").message


def test_a_user_who_becomes_a_guest_is_told(own):
    """A guest has no keys, so nothing could be signed."""
    own.samba.set_global(map_to_guest="bad user")
    own.samba.add_share("open", own.samba.root, guest_ok="yes", valid_users="")
    assert "as a guest only" in refusal(own, user="nobody-knows", share="open").message


def test_a_missing_share_is_told(own):
    assert "no share of the name in SMB_SHARE" in refusal(own, share="missing").message


def test_a_share_that_is_for_others_is_told(own):
    own.samba.add_share("private", own.samba.root, valid_users="somebody-else")
    assert "may not use the share" in refusal(own, share="private").message


def test_a_server_that_cannot_be_reached_is_told(own):
    own.samba.kill()
    assert "SMB_HOST and SMB_PORT" in refusal(own).message


def test_a_host_that_has_no_address_is_told(own):
    assert "cannot be resolved" in refusal(own, host="no-such-host.invalid").message


def test_something_that_is_no_smb_server_is_told(own, tmp_path, free_listener):
    assert "hangs up" in refusal(own, port=free_listener).message


def test_a_server_without_smb_3_is_told(own):
    own.samba.set_global(server_max_protocol="SMB2_10")
    assert "SMB 3" in refusal(own).message


def test_a_server_without_encryption_is_told_where_that_is_required(own):
    own.samba.set_global(server_smb_encrypt="off")
    assert "SMB_ENCRYPTION" in refusal(own, encryption="required").message
    assert SmbStorage(own.share(), own.path, "an-instance").check() > 0


def test_a_share_that_is_a_dfs_root_is_used_like_any_other(own):
    own.samba.set_global(host_msdfs="yes")
    own.samba.add_share("dfs", own.samba.root, msdfs_root="yes")
    assert SmbStorage(own.share(share="dfs"), own.path, "an-instance").check() > 0


def test_a_refused_login_is_not_repeated_at_once(own):
    """Servers lock accounts after a few; so the second failure comes without asking again."""
    share = own.share(password="wrong")
    with pytest.raises(LoginRefused):
        SmbStorage(share, own.path, "an-instance")
    own.samba.kill()
    for _ in range(10):
        with pytest.raises(StorageUnavailable, match="SMB_USER and SMB_PASS"):
            SmbStorage(share, own.path, "an-instance")


@pytest.fixture
def read_only(own):
    """A backend on a share that was writable, and is not any more."""
    published, staged = own.filled(b"published"), own.filled(b"staged")
    own.publish(published)
    own.samba.add_share("share", own.samba.root, read_only="yes")
    own.reconnect()
    yield own, published, staged
    own.samba.add_share("share", own.samba.root)
    own.reconnect()
    assert own.read(own.publish(staged)) == b"staged"


def test_a_read_only_share_can_be_read_and_says_why_no_more(read_only):
    own, published, staged = read_only
    for act in (
        lambda: own.storage.check(),
        lambda: own.staged(1),
        lambda: own.put(staged, b"x"),
        lambda: own.publish(staged),
        lambda: own.storage.discard(staged),
        lambda: own.storage.delete(published.target_key),
        lambda: own.opened("another-instance"),
    ):
        with pytest.raises(StorageUnavailable, match="read-only"):
            act()
    assert own.read(published.target_key) == b"published"
    assert own.storage.stat(staged.staging_key).size_bytes == 6


def make_writable_again(own):
    """Have a connection that was made while the share was read-only, which it is no more."""
    own.samba.add_share("share", own.samba.root, read_only="yes")
    own.reconnect()
    with pytest.raises(StorageUnavailable, match="read-only"):
        own.storage.check()
    own.samba.add_share("share", own.samba.root)


def until_may_write(storage):
    """Ask a storage until Samba has read its settings and lets it write."""
    give_up_at = time.monotonic() + 30
    while True:
        try:
            assert storage().check() > 0
            break
        except StorageUnavailable:
            assert time.monotonic() < give_up_at, "it is still not writable"
            time.sleep(0.05)  # the loop ends by its deadline


def test_a_share_that_is_made_writable_is_used_again(own, monkeypatch):
    """Samba lets nobody write who connected while it was read-only, whatever is set since."""
    monkeypatch.setattr(smb_share, "_RENEWAL_SECONDS", 0.0)
    make_writable_again(own)
    until_may_write(lambda: own.storage)


def test_what_is_refused_by_an_old_connection_is_tried_with_a_new_one(own, monkeypatch):
    """So that no client is told of a read-only share that has been writable for long."""
    monkeypatch.setattr(smb_share, "_RENEWAL_SECONDS", 3600.0)
    make_writable_again(own)
    until_may_write(lambda: SmbStorage(own.share(), own.path, "an-instance"))
    with pytest.raises(StorageUnavailable, match="read-only"):
        own.storage.check()
    monkeypatch.setattr(smb_share, "_RENEWAL_SECONDS", 0.0)
    assert own.storage.check() > 0


@pytest.fixture
def small(mounts, own_samba, smb_backend, tmp_path):
    """A share on a real disk of 1 MiB."""
    mounts.tmpfs(tmp_path / "disk", size_kib=1024)
    own_samba.add_share("small", tmp_path / "disk")
    backend = smb_backend(own_samba, "small", share="small")
    yield backend
    assert backend.leftovers() == []
    backend.close()


def test_a_full_share_is_told_and_heals_once_there_is_room(small):
    big, content = small.staged(10 * MIB), random.randbytes(300 * KIB)
    other = small.staged(len(content))
    with pytest.raises(StorageFull):
        small.put(big, random.randbytes(2 * MIB))
    with pytest.raises(StorageFull):
        small.put(other, content)
    with pytest.raises(StorageFull):
        small.storage.check()
    small.storage.discard(big)
    assert small.storage.check() > 500 * KIB
    small.put(other, content)
    assert small.read(small.publish(other)) == content
    small.storage.delete(other.target_key)


def test_a_first_start_on_a_full_share_says_so_and_leaves_nothing(small, tmp_path):
    filler = tmp_path / "disk/filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(KIB))
    with pytest.raises(StorageFull):
        SmbStorage(small.share(), ("new", "root"), "an-instance")
    left = [path for path in (tmp_path / "disk/new").rglob("*") if path.is_file()]
    assert left == []
    filler.unlink()
    assert SmbStorage(small.share(), ("new", "root"), "an-instance").check() > 0


def test_all_that_fits_before_the_share_is_full_is_kept(small):
    content = random.randbytes(700 * KIB)
    staged = small.staged(10 * MIB)
    small.put(staged, content)
    with pytest.raises(StorageFull):
        small.put(staged, random.randbytes(2 * MIB), index=1, offset=len(content))
    with small.storage.open(staged.staging_key) as file:
        assert file.read(len(content)) == content
    small.storage.discard(staged)


def test_a_length_that_no_file_there_can_have_leaves_nothing(smb):
    for length in (2**62, 2**63):
        with pytest.raises(StorageFull):
            smb.staged(length)
    assert smb.leftovers() == []


def test_a_final_name_whose_folder_is_a_file_is_a_fault(smb):
    (smb.root / "taken").write_bytes(b"a file")
    staged = smb.filled(b"content", "taken/below/movie.mp4")
    with pytest.raises(StorageFault, match="folder of it is a file"):
        smb.publish(staged)
    assert smb.read(smb.publish(replace(staged, target_key="free/movie.mp4"))) == b"content"
    smb.storage.delete("free/movie.mp4")
    (smb.root / "taken").unlink()


LINKS = {"followed": {}, "not followed": {"follow_symlinks": "no"}}
LED_TO = {"a folder": "outside", "a file": "outside/file", "nothing": "missing", "itself": "link"}


@pytest.mark.parametrize("options", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("led_to", LED_TO.values(), ids=LED_TO)
def test_a_link_that_leads_out_of_the_share_is_not_followed(own, tmp_path, options, led_to):
    """It was made on the server itself. Nothing is retried: only who made it can heal it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"a stranger's")
    link = own.root / "link"
    link.symlink_to(link if led_to == "link" else tmp_path / led_to)
    own.samba.add_share("share", own.samba.root, **options)
    own.reconnect()
    for target_key in ("link", "link/movie.mp4", "link/below/it/movie.mp4"):
        staged = own.filled(b"content", key=target_key)
        with pytest.raises(StorageFault):
            own.publish(staged)
        free = replace(staged, target_key="free/movie.mp4")
        assert own.read(own.publish(free)) == b"content"
        own.storage.delete(free.target_key)
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["file"]
    assert (tmp_path / "outside/file").read_bytes() == b"a stranger's"
    link.unlink()


def test_a_file_that_another_program_keeps_to_itself_is_told(smb):
    staged = smb.filled(b"content")
    with smb.opened_by_another_program(staged.staging_key):
        with pytest.raises(StorageUnavailable, match="Another program"):
            smb.publish(staged)
    assert smb.read(smb.publish(staged)) == b"content"
    smb.storage.delete(staged.target_key)


def test_a_share_that_is_closed_is_noticed_and_found_again(own):
    """The server ends what is open on it; the next request hears of it."""
    staged = own.filled(b"content")
    own.samba.close_share("share")
    assert own.read(own.publish(staged)) == b"content"


def test_nothing_is_connected_before_it_is_needed(own):
    own.samba.kill()
    share = Share(own.target(), connections=2, timeout_seconds=1)
    share.close()
    assert share.location == "smb://127.0.0.1/share"


def test_folders_that_were_removed_on_the_server_are_made_again(smb):
    shutil.rmtree(smb.root / ".staging/an-instance")
    staged = smb.filled(b"content")
    assert smb.storage.check() > 0
    shutil.rmtree(smb.root / ".staging/an-instance")
    assert smb.storage.check() > 0
    smb.storage.discard(staged)
