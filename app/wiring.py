"""Which collaborators the application is made of.

They are made on first use, so that a server whose disk or database is not ready
starts all the same, says so, and recovers by itself.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain.clock import Clock
from app.ingest.drain import Drain
from app.jobs.finalize import Finalizer
from app.jobs.outbound import OutboundClient
from app.jobs.runner import Runner
from app.jobs.sweep import Sweeper
from app.jobs.webhooks import WebhookSender
from app.ledger.database import Engine, open_ledger
from app.ledger.migrate import migrate
from app.settings import Settings
from app.storage.base import Storage
from app.storage.local import LocalStorage
from app.uploads.append_service import AppendService
from app.uploads.chunks import ChunkService
from app.uploads.policy import Policy
from app.uploads.reading import FileReader
from app.uploads.service import UploadService
from app.version import VERSION

if TYPE_CHECKING:
    from app.storage.smb_share import Share

MIB = 1024 * 1024


class Wiring:
    """The collaborators of this process. ``storage`` replaces the one the settings name."""

    def __init__(self, settings: Settings, engine: Engine, storage: Storage | None = None) -> None:
        self.settings = settings
        self._engine = engine
        self.clock = Clock()
        self.drain = Drain(settings.graceful_timeout_secs)
        self.ledger = open_ledger(
            engine,
            Path(settings.temp_storage_path) / "run",
            strict=settings.strict_durability,
            busy_timeout_seconds=settings.ledger_busy_timeout_secs,
        )
        self._given_storage = storage

    def migrate(self) -> None:
        """Bring the ledger's tables to this version."""
        migrate(self._engine)

    @cached_property
    def storage(self) -> Storage:
        """The storage of the settings. Raises LedgerOutdated, LedgerBusy, StorageUnavailable."""
        if self._given_storage is not None:
            return self._given_storage
        if self.settings.storage_backend == "smb":
            return self._smb_storage()
        if self.settings.storage_backend == "s3":
            return self._s3_storage()
        return LocalStorage(
            self.settings.local_storage_path,
            self.ledger.instance_id(),
            file_mode=self.settings.file_mode,
            parts_synced=self.settings.strict_durability,
            memory_directory=self.settings.temp_storage_path,
        )

    def _smb_storage(self) -> Storage:
        # Not before it is chosen: the library is an extra.
        from app.storage.smb import SmbStorage

        return SmbStorage(
            self._smb_share,
            tuple(filter(None, self.settings.smb_path.split("/"))),
            self.ledger.instance_id(),
            parts_synced=self.settings.strict_durability,
            memory_directory=self.settings.temp_storage_path,
        )

    @cached_property
    def _smb_share(self) -> Share:
        """The share of the settings, which remembers for how long it must not be tried again."""
        from app.storage.smb_login import Target
        from app.storage.smb_share import Share

        settings = self.settings
        user = settings.smb_user
        target = Target(
            host=settings.smb_host,
            port=settings.smb_port,
            share=settings.smb_share,
            user=f"{settings.smb_domain}\\{user}" if settings.smb_domain else user,
            password=settings.smb_pass.get_secret_value(),
            encryption=settings.smb_encryption,
        )
        return Share(
            target,
            connections=settings.smb_connections,
            timeout_seconds=settings.smb_timeout_secs,
        )

    def _s3_storage(self) -> Storage:
        # Not before it is chosen: the library is an extra, and large.
        from app.storage.s3 import S3Storage
        from app.storage.s3_client import S3Place

        settings = self.settings
        place = S3Place(
            bucket=settings.s3_bucket,
            region=settings.s3_region,
            endpoint=settings.s3_endpoint,
            checksums_sent=settings.s3_checksums_sent,
            access_key_id=settings.aws_access_key_id,
            secret_access_key=settings.aws_secret_access_key.get_secret_value(),
            session_token=settings.aws_session_token.get_secret_value(),
        )
        return S3Storage(
            place,
            settings.temp_storage_path,
            self.ledger.instance_id(),
            file_mode=settings.file_mode,
            parts_synced=settings.strict_durability,
            larger_last_part=settings.s3_larger_last_part,
        )

    @cached_property
    def policy(self) -> Policy:
        """The settings services act by."""
        settings = self.settings
        return Policy(
            part_size_bytes=settings.chunk_size_mb * MIB,
            ttl_seconds=settings.upload_ttl_seconds,
            abandoned_after_seconds=settings.abandoned_after_seconds,
            max_upload_bytes=settings.max_upload_bytes,
            check_free_disk=settings.check_free_disk,
            min_free_disk_bytes=settings.min_free_disk_bytes,
            complete_wait_seconds=settings.complete_wait_secs,
            body_idle_timeout_seconds=settings.body_idle_timeout_secs,
            durable=settings.strict_durability,
            allow_private_targets=settings.allow_private_targets,
            max_concurrent_finalizations=settings.max_concurrent_finalizations,
            resumable_grace_seconds=settings.resumable_grace_secs,
        )

    @cached_property
    def uploads(self) -> UploadService:
        """The upload service; finalizing is woken once ``runner`` is started."""
        return UploadService(self.ledger, self.storage, self.clock, self.policy, self.drain)

    @cached_property
    def files(self) -> FileReader:
        """Finds and opens files for reading."""
        return FileReader(self.ledger, self.storage, self.clock, self.policy)

    @cached_property
    def appends(self) -> AppendService:
        """The service of uploads that grow front to back."""
        return AppendService(
            self.ledger, self.storage, self.clock, self.policy, self.drain, self.uploads
        )

    @cached_property
    def chunks(self) -> ChunkService:
        """The service of clients that send chunks under a name of their own."""
        return ChunkService(self.ledger, self.storage, self.clock, self.policy, self.uploads)

    @cached_property
    def finalizer(self) -> Finalizer:
        """Finalizes uploads that are due."""
        return Finalizer(self.ledger, self.storage, self.clock, self.policy)

    @cached_property
    def sweeper(self) -> Sweeper:
        """Removes what has ended."""
        return Sweeper(self.ledger, self.storage, self.clock, self.uploads)

    @cached_property
    def runner(self) -> Runner:
        """Runs the jobs; whoever starts it also lets ``uploads`` wake it."""
        client = OutboundClient(self.settings.allow_private_targets, version=VERSION)
        return Runner(
            self.ledger,
            self.finalizer,
            self.sweeper,
            WebhookSender(self.ledger, self.clock, client),
            self.drain,
            self.settings.cleanup_interval_secs,
        )
