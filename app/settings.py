"""The settings: their names, defaults and meaning, and one line when one is wrong.

The setting NAME is the field ``name`` of ``Settings``. It comes from the
environment or from ``.env``, the environment winning; an empty value counts as
not set. gunicorn's master imports this module before its workers are
monkey-patched, so nothing of Flask or SQLAlchemy is imported here.
``.env.example`` and the README's table tell the same in words; a test compares.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import cast

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app import setting_defaults as defaults
from app import setting_types as types
from app.s3_settings import S3Settings
from app.smb_settings import SmbSettings

MIB = 1024 * 1024

#: Names of the servers we replace. Theirs and ours given with different values is an error.
ALIASES = {
    "STORAGE_DIR": "LOCAL_STORAGE_PATH",
    "UPLOAD_EXPIRY_HOURS": "UPLOAD_TTL_HOURS",
    "LISTEN": "BIND_ADDR",
}

#: An HS256 key below this can be guessed from one token, offline.
_SHORT_SECRET_CHARACTERS = 16

#: Longest value an error message repeats, in characters.
_SHOWN_CHARACTERS = 80


class SettingsError(Exception):
    """A setting is missing or wrong. ``str()`` is one line for the operator, without secrets."""


class Settings(SmbSettings, S3Settings):
    """All settings, frozen. Constructed directly it reads the environment, never a file."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    api_key: types.Secret = Field(description="Key clients send as X-API-Key")
    jwt_secret: types.Secret = Field(
        description="Secret that signs part tokens; changing it ends all open part tokens"
    )
    server_port: types.Port = Field(3000, description="Port to listen on, on all addresses")
    bind_addr: types.Address = Field(
        default_factory=lambda given: f"0.0.0.0:{given['server_port']}",
        validation_alias=AliasChoices("bind_addr", "listen"),
        description="Address and port to listen on; wins over SERVER_PORT",
    )
    workers: types.Count = Field(
        default_factory=defaults.usable_cores,
        description="Worker processes; by default the usable cores",
    )
    graceful_timeout_secs: types.WholeSeconds = Field(
        30, description="How long requests may go on after the order to stop"
    )

    local_storage_path: types.Directory = Field(
        "./uploads",
        validation_alias=AliasChoices("local_storage_path", "storage_dir"),
        description="Directory of the local storage",
    )
    file_mode: types.FileMode = Field(0o640, description="Permissions of finished files, octal")
    check_free_disk: types.Switch = Field(
        True, description="Refuse an upload at its start when the storage has no room for it"
    )
    min_free_disk_bytes: types.Size = Field(
        256 * MIB, description="Space that uploads leave free on the storage"
    )

    database_path: types.DatabasePath = Field(
        "./uploads.db", validate_default=True, description="SQLite file of the ledger"
    )
    database_url: types.DatabaseUrl = Field(
        default_factory=lambda given: SecretStr(f"sqlite:///{given['database_path']}"),
        description="Database of the ledger, instead of DATABASE_PATH",
    )
    temp_storage_path: types.Directory = Field(
        default_factory=defaults.temporary_directory,
        description="Local directory for bytes on their way to a remote storage",
    )
    ledger_busy_timeout_secs: types.Seconds = Field(
        10, description="How long a request waits for a locked or silent database; then 503"
    )
    durability: types.Durability = Field(
        "strict", description="What an acknowledged part survives: power loss, or a crash only"
    )

    chunk_size_mb: types.Count = Field(50, description="Part size of new uploads in MiB")
    max_upload_bytes: types.Size = Field(0, description="Largest upload in bytes; 0: no limit")
    upload_ttl_hours: types.Hours = Field(
        24,
        validation_alias=AliasChoices("upload_ttl_hours", "upload_expiry_hours"),
        description="Hours until an unfinished upload expires; fractions allowed",
    )
    abandoned_after_hours: types.Hours = Field(
        default_factory=lambda given: given["upload_ttl_hours"],
        description="Hours without progress after which tus and Resumable.js uploads expire",
    )
    body_idle_timeout_secs: types.Seconds = Field(
        60, description="Give a request up when its body, or its answer, stands still for so long"
    )
    downloads: types.Switch = Field(True, description="Let owners read their files back")
    max_concurrent_finalizations: types.Count = Field(4, description="Uploads finalized at a time")
    complete_wait_secs: types.SecondsOrZero = Field(
        2, description="How long POST /complete waits for the file before it answers 202"
    )
    cleanup_interval_secs: types.WholeSeconds = Field(
        3600, description="How often expired uploads are swept"
    )
    run_jobs_in_workers: types.Switch = Field(
        True, description="Finalize and sweep in the workers; off: in `flask jobs run`"
    )

    base_url: types.BaseUrl = Field(
        "", description="URL clients reach the server by; by default taken from the request"
    )
    trusted_proxies: types.Networks = Field(
        (), description="Proxies whose Forwarded and X-Forwarded-* headers are believed"
    )
    anonymous_protocols: types.Protocols = Field(
        frozenset(), description="Protocols that need no credentials: resumable, tus, pipe"
    )
    resumable_parameters: types.ResumableParameters = Field(
        (), description="Names of fields that Resumable.js clients have changed"
    )
    resumable_min_chunk_bytes: types.Size = Field(
        64 * 1024, description="Smallest chunk size that Resumable.js clients may have"
    )
    resumable_max_spool_bytes: types.Size = Field(
        256 * MIB, description="Longest chunk that may come before its fields in a form"
    )
    resumable_grace_secs: types.SecondsOrZero = Field(
        300, description="How long a complete Resumable.js upload answers to its identifier"
    )
    cors_origins: types.Origins = Field(
        ("*",), description="Origins whose pages may use the API; * for all, none for none"
    )
    allow_private_targets: types.Switch = Field(
        False, description="Allow webhooks to private and loopback addresses"
    )
    metrics_public: types.Switch = Field(False, description="Show /metrics without the API key")
    log_level: types.LogLevel = Field("info", description="Least severe messages that are logged")
    log_format: types.LogFormat = Field(
        default_factory=lambda: "console" if sys.stderr.isatty() else "json",
        description="Form of log lines; by default console on a terminal, json elsewhere",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Refuse aliases that contradict; read arguments, then the environment, then ``.env``."""
        file = cast(EnvSettingsSource, dotenv_settings).env_vars
        given = {**file, **cast(EnvSettingsSource, env_settings).env_vars}
        for alias, name in ALIASES.items():
            if len({given[key] for key in (alias.lower(), name.lower()) if given.get(key)}) > 1:
                raise SettingsError(f"{alias} and {name} are one setting: give only one of them")
        return init_settings, env_settings, dotenv_settings

    @model_validator(mode="after")
    def _one_database(self) -> Settings:
        both_given = {"database_path", "database_url"} <= self.model_fields_set
        if both_given and self.database_uri != f"sqlite:///{self.database_path}":
            raise PydanticCustomError(
                "contradiction",
                "DATABASE_PATH and DATABASE_URL name different databases: give only one of them",
            )
        if not self.is_sqlite and importlib.util.find_spec("psycopg") is None:
            raise PydanticCustomError(
                "extra",
                "DATABASE_URL is PostgreSQL: its driver is missing, pip install '.[postgres]'",
            )
        # Acknowledged bytes of what is staged lie there until they are in the bucket.
        staged = self.storage_backend == "s3" and self.strict_durability
        if staged and defaults.in_memory(self.temp_storage_path):
            raise PydanticCustomError(
                "memory",
                "TEMP_STORAGE_PATH is in memory (tmpfs), which DURABILITY=strict forbids: "
                "give a directory on a disk",
            )
        return self

    @property
    def bind_host(self) -> str:
        """Host or address to listen on, an IPv6 address without brackets."""
        return types.split_address(self.bind_addr)[0]

    @property
    def bind_port(self) -> int:
        """Port to listen on: that of BIND_ADDR, else SERVER_PORT."""
        return types.split_address(self.bind_addr)[1]

    @property
    def database_uri(self) -> str:
        """SQLAlchemy's URI of the ledger; it may hold a password."""
        return self.database_url.get_secret_value()

    @property
    def is_sqlite(self) -> bool:
        return self.database_uri.startswith("sqlite:")

    @property
    def strict_durability(self) -> bool:
        return self.durability == "strict"

    @property
    def chunk_size_bytes(self) -> int:
        return self.chunk_size_mb * MIB

    @property
    def upload_ttl_seconds(self) -> float:
        return self.upload_ttl_hours * 3600

    @property
    def abandoned_after_seconds(self) -> float:
        return min(self.abandoned_after_hours, self.upload_ttl_hours) * 3600

    def warnings(self) -> list[str]:
        """Return what an operator should know, though it does not stop the start."""
        found = []
        if len(self.jwt_secret.get_secret_value()) < _SHORT_SECRET_CHARACTERS:
            found.append(
                f"JWT_SECRET is shorter than {_SHORT_SECRET_CHARACTERS} characters and can be "
                "guessed: make it longer"
            )
        if self.abandoned_after_hours > self.upload_ttl_hours:
            found.append(
                "ABANDONED_AFTER_HOURS is more than UPLOAD_TTL_HOURS, so it changes nothing"
            )
        places = {}
        if self.storage_backend == "local":
            places["LOCAL_STORAGE_PATH"] = self.local_storage_path
        if self.is_sqlite:
            places["DATABASE_PATH"] = self.database_uri.removeprefix("sqlite:///")
        for name, path in places.items():
            if self.strict_durability and defaults.in_memory(path):
                found.append(
                    f"{name} is in memory (tmpfs): a reboot loses it, whatever DURABILITY is"
                )
        return found


def load_settings(env_file: str | Path | None = ".env") -> Settings:
    """Read the settings from the environment and ``env_file``, which need not exist.

    Raises SettingsError, whose text names every wrong setting in one line.
    """
    try:
        return Settings(_env_file=env_file)
    except ValidationError as error:
        # A default that builds upon a refused setting is no error of its own.
        wrong = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
        raise SettingsError("; ".join(map(_problem, wrong))) from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"{env_file} cannot be read: {reason}") from None


def _problem(error: ErrorDetails) -> str:
    """Return one wrong setting as a clause: its name, its value unless secret, what is allowed."""
    if not error["loc"]:
        return error["msg"]
    name = str(error["loc"][0]).upper()
    if error["type"] == "missing":
        return f"{name} is not set; deploy/init.sh writes a .env with strong secrets"
    field = Settings.model_fields[name.lower()]
    allowed = next(item.text for item in field.metadata if isinstance(item, types.Allowed))
    value = repr(error["input"])
    if len(value) > _SHOWN_CHARACTERS:
        value = f"{value[:_SHOWN_CHARACTERS]}..."
    if field.annotation is SecretStr:
        value = "not valid"
    also = "".join(f" (or {alias})" for alias, ours in ALIASES.items() if ours == name)
    return f"{name}{also} is {value}: it must be {allowed}"
