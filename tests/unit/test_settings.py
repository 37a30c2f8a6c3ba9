"""Settings: where they come from, what they refuse, and in which words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import ALIASES, Settings, SettingsError, load_settings

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {"API_KEY": "the-key-7c1e", "JWT_SECRET": "the-secret-0123456789"}

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Load settings from exactly the variables given, in an empty directory."""
    for name in os.environ:
        if name.lower() in Settings.model_fields or name in ALIASES:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def loaded(**variables: str) -> Settings:
        for name, value in (REQUIRED | variables).items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return loaded


def refusal(load: Load, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_two_secrets_are_enough_and_the_defaults_are_those_of_the_reference(
    load: Load, tmp_path: Path
) -> None:
    settings = load()
    assert settings.api_key.get_secret_value() == REQUIRED["API_KEY"]
    assert settings.storage_backend == "local"
    assert settings.local_storage_path == "./uploads"
    assert settings.database_uri == f"sqlite:///{tmp_path}/uploads.db"
    assert settings.is_sqlite
    assert settings.temp_storage_path == f"{tmp_path}/uploads.db.d"
    assert (settings.bind_host, settings.bind_port) == ("0.0.0.0", 3000)
    assert settings.chunk_size_bytes == 52_428_800
    assert settings.upload_ttl_seconds == 86_400
    assert settings.max_concurrent_finalizations == 4
    assert settings.max_upload_bytes == 0
    assert settings.cleanup_interval_secs == 3600
    assert settings.complete_wait_secs == 2
    assert settings.strict_durability
    assert settings.file_mode == 0o640
    assert settings.min_free_disk_bytes == 268_435_456
    assert settings.cors_origins == ("*",)
    assert not settings.metrics_public
    assert 1 <= settings.workers <= (os.cpu_count() or 1)


def test_settings_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().server_port = 1


def test_dotenv_is_read_and_the_environment_wins(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CHUNK_SIZE_MB=8\nSERVER_PORT=4000\nUNKNOWN_TO_US=1\n")
    settings = load(SERVER_PORT="5000", ALSO_UNKNOWN="1")
    assert (settings.chunk_size_mb, settings.server_port) == (8, 5000)


def test_a_missing_dotenv_is_no_error_but_an_unreadable_one_is(load: Load, tmp_path: Path) -> None:
    load()
    (tmp_path / ".env").write_bytes(b"API_KEY=\xff\xfe\n")
    assert refusal(load) == ".env cannot be read: it is not UTF-8 text"


def test_an_empty_value_counts_as_not_set(load: Load) -> None:
    assert load(CHUNK_SIZE_MB="", CORS_ORIGINS="").chunk_size_mb == 50
    assert "API_KEY is not set" in refusal(load, API_KEY="")


@pytest.mark.parametrize("name", REQUIRED)
def test_secrets_of_blanks_are_refused(load: Load, name: str) -> None:
    assert refusal(load, **{name: "  "}) == f"{name} is not valid: it must be at least 1 character"


def test_missing_secrets_are_all_named_with_a_way_out(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    for name in REQUIRED:
        monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=r"API_KEY is not set.*init\.sh.*JWT_SECRET is not set"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("CHUNK_SIZE_MB", "0", "a whole number, at least 1"),
        ("CHUNK_SIZE_MB", "50MB", "a whole number, at least 1"),
        ("SERVER_PORT", "65536", "a port from 1 to 65535"),
        ("DURABILITY", "lax", "strict or relaxed"),
        ("LOG_LEVEL", "loud", "error, warn, info, debug or trace"),
        ("LOG_FORMAT", "xml", "json or console"),
        ("METRICS_PUBLIC", "maybe", "on or off (true or false, 1 or 0)"),
        ("STORAGE_BACKEND", "ftp", "local, smb or s3"),
        (
            "S3_ENDPOINT",
            "minio:9000",
            "an http or https URL without a query, such as https://uploads.example.com",
        ),
        (
            "S3_BUCKET",
            "a/b",
            "the name of a bucket: 3 to 255 letters, digits, dots, hyphens and underscores",
        ),
        ("S3_REGION", "EU (Frankfurt)", "the name of a region, such as us-east-1"),
        ("S3_REQUEST_CHECKSUMS", "always", "when_supported or when_required"),
        ("GRACEFUL_TIMEOUT_SECS", "0", "a whole number of seconds, at least 1"),
        ("COMPLETE_WAIT_SECS", "-1", "a number of seconds, 0 or more"),
        ("BODY_IDLE_TIMEOUT_SECS", "nan", "a number of seconds above 0, such as 10"),
    ],
)
def test_a_wrong_value_is_told_in_one_line_with_name_value_and_what_is_allowed(
    load: Load, name: str, value: str, allowed: str
) -> None:
    assert refusal(load, **{name: value}) == f"{name} is '{value}': it must be {allowed}"


def test_several_wrong_values_are_told_together(load: Load) -> None:
    message = refusal(load, SERVER_PORT="x", WORKERS="0")
    assert message == (
        "SERVER_PORT is 'x': it must be a port from 1 to 65535; "
        "WORKERS is '0': it must be a whole number, at least 1"
    )


def test_a_hostile_value_neither_breaks_the_line_nor_fills_the_screen(load: Load) -> None:
    message = refusal(load, LOG_LEVEL="a\nb" + "x" * 10_000)
    assert message.startswith(r"LOG_LEVEL is 'a\nbxxx")
    assert len(message) < 250


def test_no_message_and_no_repr_shows_a_secret(load: Load) -> None:
    message = refusal(load, DATABASE_URL="mysql://user:hunter2@host/db", SERVER_PORT="x")
    assert "DATABASE_URL is not valid: it must be postgresql://" in message
    settings = load(DATABASE_URL="postgres://user:hunter2@host/db", SERVER_PORT="1")
    for secret in ("hunter2", *REQUIRED.values()):
        assert secret not in message
        assert secret not in repr(settings)


@pytest.mark.parametrize("value", ["0", "-1", "inf", "1e9", "soon"])
@pytest.mark.parametrize("name", ["UPLOAD_TTL_HOURS", "UPLOAD_EXPIRY_HOURS"])
def test_a_setting_with_two_names_is_refused_under_both(load: Load, name: str, value: str) -> None:
    assert refusal(load, **{name: value}) == (
        f"UPLOAD_TTL_HOURS (or UPLOAD_EXPIRY_HOURS) is '{value}': "
        "it must be a number of hours above 0, such as 24 or 0.5"
    )


@pytest.mark.parametrize(
    ("alias", "name", "value", "other", "field"),
    [
        ("STORAGE_DIR", "LOCAL_STORAGE_PATH", "/srv/files", "/srv/other", "/srv/files"),
        ("UPLOAD_EXPIRY_HOURS", "UPLOAD_TTL_HOURS", "12", "13", 12),
        ("LISTEN", "BIND_ADDR", "127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:80"),
    ],
)
def test_aliases_are_accepted_but_may_not_contradict(
    load: Load, alias: str, name: str, value: str, other: str, field: object
) -> None:
    assert getattr(load(**{alias: value}), name.lower()) == field
    assert getattr(load(**{alias: value, name: value}), name.lower()) == field
    assert refusal(load, **{alias: value, name: other}) == (
        f"{alias} and {name} are one setting: give only one of them"
    )


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:1", "localhost", 1),
        ("[::1]:3000", "::1", 3000),
        ("[::]:65535", "::", 65535),
    ],
)
def test_bind_addr_wins_over_server_port(load: Load, address: str, host: str, port: int) -> None:
    settings = load(BIND_ADDR=address, SERVER_PORT="4000")
    assert (settings.bind_host, settings.bind_port) == (host, port)


def test_server_port_alone_means_all_addresses(load: Load) -> None:
    settings = load(SERVER_PORT="4000")
    assert (settings.bind_host, settings.bind_port) == ("0.0.0.0", 4000)


@pytest.mark.parametrize(
    "address",
    ["3000", ":3000", "host:", "host:0", "host:65536", "::1:3000", "[::g]:1", "a b:1", "u@h:1"],
)
def test_an_address_without_host_and_port_is_refused(load: Load, address: str) -> None:
    assert refusal(load, BIND_ADDR=address).startswith("BIND_ADDR (or LISTEN) is ")


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        ("tus.db", "sqlite:///{cwd}/tus.db"),
        ("/var/lib/x.db", "sqlite:////var/lib/x.db"),
        ("sqlite:///x.db", "sqlite:///{cwd}/x.db"),
        ("sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"),
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        (
            "postgresql://u:p@h:5/d?sslmode=require",
            "postgresql+psycopg://u:p@h:5/d?sslmode=require",
        ),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
    ],
)
def test_a_database_is_a_url_or_the_path_of_a_sqlite_file(
    load: Load, tmp_path: Path, value: str, uri: str
) -> None:
    settings = load(DATABASE_URL=value)
    assert settings.database_uri == uri.format(cwd=tmp_path)
    assert settings.is_sqlite == uri.startswith("sqlite")


@pytest.mark.parametrize(
    "value",
    [
        "mysql://u:p@h/d",
        "postgresql+psycopg2://u:p@h/d",
        "postgresql://",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        ":memory:",
        "sqlite:x.db",
        "sqlite://x.db",
        "x.db?mode=ro",
        "100%.db",
    ],
)
def test_other_databases_are_refused(load: Load, value: str) -> None:
    assert refusal(load, DATABASE_URL=value).startswith("DATABASE_URL is not valid")


def test_two_databases_are_refused_unless_they_are_the_same(load: Load) -> None:
    assert load(DATABASE_PATH="a.db", DATABASE_URL="sqlite:///./a.db").is_sqlite
    assert refusal(load, DATABASE_PATH="a.db", DATABASE_URL="b.db") == (
        "DATABASE_PATH and DATABASE_URL name different databases: give only one of them"
    )


def test_temporary_files_stay_beside_the_ledger(load: Load, tmp_path: Path) -> None:
    assert load(DATABASE_PATH="/srv/ledger.db").temp_storage_path == "/srv/ledger.db.d"
    assert load(DATABASE_PATH="", DATABASE_URL="x.db").temp_storage_path == f"{tmp_path}/x.db.d"
    assert load(DATABASE_URL="postgres://u@h/d").temp_storage_path == "./longhaul-temp"
    assert load(TEMP_STORAGE_PATH="/fast/").temp_storage_path == "/fast"


@pytest.mark.parametrize(
    ("value", "expected_bytes"),
    [("0", 0), ("107374182400", 107_374_182_400), ("1k", 1024), ("10G", 10 << 30), ("2T", 2 << 40)],
)
def test_sizes_are_bytes_or_binary_multiples(load: Load, value: str, expected_bytes: int) -> None:
    assert load(MAX_UPLOAD_BYTES=value).max_upload_bytes == expected_bytes


@pytest.mark.parametrize("value", ["-1", "1.5G", "10 GB", "1P", "9" * 30, "9999999999T"])
def test_other_sizes_are_refused(load: Load, value: str) -> None:
    assert refusal(load, MAX_UPLOAD_BYTES=value).startswith("MAX_UPLOAD_BYTES is ")


@pytest.mark.parametrize(("value", "mode"), [("0600", 0o600), ("664", 0o664), ("0o640", 0o640)])
def test_file_mode_is_octal(load: Load, value: str, mode: int) -> None:
    assert load(FILE_MODE=value).file_mode == mode


@pytest.mark.parametrize("value", ["0440", "0888", "4755", "rw", "640.0"])
def test_file_modes_the_server_could_not_work_with_are_refused(load: Load, value: str) -> None:
    assert refusal(load, FILE_MODE=value).startswith(f"FILE_MODE is '{value}'")


def test_fractions_of_hours_are_allowed(load: Load) -> None:
    assert load(UPLOAD_TTL_HOURS="0.5").upload_ttl_seconds == 1800


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("*", ("*",)),
        ("none", ()),
        (
            "https://a.example, http://b.example:8080/",
            ("https://a.example", "http://b.example:8080"),
        ),
    ],
)
def test_origins_are_separated_by_commas(load: Load, value: str, origins: tuple[str, ...]) -> None:
    assert load(CORS_ORIGINS=value).cors_origins == origins


def test_an_origin_with_a_path_is_refused(load: Load) -> None:
    assert refusal(load, CORS_ORIGINS="https://a.example/app").startswith("CORS_ORIGINS is ")


def test_words_are_read_in_any_case_and_levels_by_all_their_names(load: Load) -> None:
    assert load(LOG_LEVEL="WARN").log_level == "warning"
    assert load(LOG_LEVEL="trace").log_level == "debug"
    assert load(DURABILITY="Relaxed", CHECK_FREE_DISK="OFF").strict_durability is False


def test_a_short_secret_is_a_warning_only(load: Load) -> None:
    assert load().warnings() == []
    [warning] = load(JWT_SECRET="x" * 15).warnings()
    assert warning.startswith("JWT_SECRET is shorter than 16 characters")
    assert load(JWT_SECRET="x" * 16).warnings() == []


def test_uploads_are_abandoned_after_their_whole_life_unless_it_is_to_be_earlier(
    load: Load,
) -> None:
    assert load().abandoned_after_hours == 24
    assert load(UPLOAD_TTL_HOURS="72").abandoned_after_seconds == 72 * 3600
    settings = load(UPLOAD_TTL_HOURS="72", ABANDONED_AFTER_HOURS="0.5")
    assert settings.abandoned_after_seconds == 1800
    assert settings.warnings() == []


def test_a_time_to_abandon_uploads_that_have_expired_before_is_a_warning(load: Load) -> None:
    settings = load(UPLOAD_TTL_HOURS="12", ABANDONED_AFTER_HOURS="24")
    assert settings.abandoned_after_seconds == 12 * 3600
    [warning] = settings.warnings()
    assert warning.startswith("ABANDONED_AFTER_HOURS is more than UPLOAD_TTL_HOURS")


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are read from Linux's /proc")
def test_storage_in_memory_is_a_warning_under_strict_durability(load: Load) -> None:
    places = {"LOCAL_STORAGE_PATH": "/dev/shm/uploads", "DATABASE_PATH": "/dev/shm/a.db"}
    warnings = load(**places).warnings()
    assert [warning.split()[0] for warning in warnings] == ["LOCAL_STORAGE_PATH", "DATABASE_PATH"]
    assert load(DURABILITY="relaxed", **places).warnings() == []


def test_importing_the_settings_stays_cheap() -> None:
    code = "import app.settings, app.logs, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    heavy = {"flask", "werkzeug", "sqlalchemy", "gevent", "httpx", "jwt", "prometheus_client"}
    assert heavy.isdisjoint(done.stdout.split())


def test_s3_has_the_defaults_of_the_reference_and_keys_may_come_from_elsewhere(load: Load) -> None:
    settings = load(STORAGE_BACKEND="S3")
    assert (settings.s3_endpoint, settings.s3_bucket) == ("", "uploads")
    assert settings.s3_region == "us-east-1"
    assert settings.aws_access_key_id == settings.aws_secret_access_key.get_secret_value() == ""
    assert not settings.s3_larger_last_part


@pytest.mark.parametrize(
    ("endpoint", "asked", "sent"),
    [
        ("", None, True),
        ("https://minio.example.com", None, False),
        ("https://minio.example.com", "when_supported", True),
        ("http://127.0.0.1:9000", "when_supported", False),
        ("", "when_required", False),
    ],
)
def test_requests_to_s3_carry_checksums_over_https_and_by_default_to_aws(
    load: Load, endpoint: str, asked: str | None, sent: bool
) -> None:
    variables = {"S3_ENDPOINT": endpoint} | ({"S3_REQUEST_CHECKSUMS": asked} if asked else {})
    assert load(**variables).s3_checksums_sent is sent


@pytest.mark.parametrize("given", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_a_pair_of_s3_keys_is_refused_without_showing_it(load: Load, given: str) -> None:
    message = refusal(load, STORAGE_BACKEND="s3", **{given: "hunter2"})
    assert "belong together" in message
    assert "hunter2" not in message


def test_s3_keys_are_read_from_dotenv_and_never_shown(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AWS_ACCESS_KEY_ID=AKIA1\nAWS_SECRET_ACCESS_KEY=hunter2\n")
    settings = load(AWS_SESSION_TOKEN="hunter3")
    assert settings.aws_access_key_id == "AKIA1"
    assert settings.aws_secret_access_key.get_secret_value() == "hunter2"
    assert "hunter" not in repr(settings)


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no tmpfs at /dev/shm")
def test_what_is_staged_for_s3_must_survive_a_reboot_under_strict_durability(load: Load) -> None:
    memory = {"TEMP_STORAGE_PATH": "/dev/shm/staging"}
    message = refusal(load, STORAGE_BACKEND="s3", **memory)
    assert message.startswith("TEMP_STORAGE_PATH is in memory")
    assert load(STORAGE_BACKEND="s3", DURABILITY="relaxed", **memory)
    assert load(**memory)
