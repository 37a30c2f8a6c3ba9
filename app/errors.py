"""Every failure Longhaul knows, as one tree.

    LonghaulError
    ├── RequestRefused          the request is wrong and stays wrong
    │   ├── InvalidField        a field is missing or of the wrong type
    │   ├── InvalidName         a client's file name is hostile
    │   ├── MalformedRequest    syntax: JSON, headers, encodings
    │   ├── PartSizeMismatch    the body is not as long as the part
    │   ├── PartCountMismatch   the file is being sent in another number of parts
    │   ├── DigestMismatch      the body is not what its digest says
    │   ├── PartConflict        the part is stored already, with other bytes
    │   ├── PartsMissing        complete was asked for too early
    │   ├── TargetRefused       a webhook address that must not be called
    │   ├── OffsetMismatch      an append does not begin where the upload ends
    │   ├── NotAppendable       an upload that is made of others takes no bytes
    │   ├── BodyTooLong         more bytes than the upload still lacks
    │   ├── UnknownVersion      a version of the protocol that is not spoken here
    │   ├── UnknownContentType  a body of a type that is not accepted
    │   └── UploadTooLarge      over MAX_UPLOAD_BYTES or the number of parts
    ├── NotAuthenticated        no credentials, or wrong ones
    │   └── TokenExpired        they were right once
    ├── NotAuthorized           right credentials, not for this
    ├── UploadNotFound          unknown, cancelled, expired, or somebody else's
    │   └── UploadGone          it was here: expired or deleted not long ago
    ├── UploadNotOpen           the state forbids it; says which state
    ├── TakenOver               a newer request appends; what had arrived is kept
    ├── StorageFull             no room on the storage
    ├── TryAgain                passes by itself; the client comes back
    │   ├── BodyStalled         the client stopped sending
    │   ├── BodyCut             the connection broke within an append
    │   ├── UploadLocked        another request is writing this
    │   ├── LeaseLost           this request was too slow and has been replaced
    │   ├── UploadUnfinished    it cannot be read yet; says how far it is
    │   ├── LedgerBusy          the database did not answer in time
    │   ├── StorageUnavailable  disk, share or bucket does not answer
    │   ├── WrongRoot           the upload's bytes are on another node's disk
    │   └── ShuttingDown        this process is stopping
    └── StorageFault            no retry heals it; finalizing fails
        ├── ChecksumMismatch    the whole file is not what was promised
        ├── PartsLost           stored parts have vanished
        └── TargetExists        the final name is taken

A class has a stable ``code`` for programs and a message for people that says
what to do. It does not know HTTP: ``protocols/problems.py`` gives each class a
status, because clients of different protocols need different ones.
"""

from __future__ import annotations

from collections.abc import Sequence


class LonghaulError(Exception):
    """Base of all errors that are raised on purpose.

    ``code`` is stable: clients may compare it. ``message`` is shown to the
    client as it is, so it never contains paths, SQL or vendor messages.
    """

    code = "internal_error"
    text = ""  # the message where none is given

    def __init__(self, message: str = "") -> None:
        self.message = message or self.text
        super().__init__(self.message)


class RequestRefused(LonghaulError):
    """The request is wrong; sending it again unchanged is useless."""

    code = "bad_request"


class InvalidField(RequestRefused):
    code = "invalid_field"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class InvalidName(RequestRefused):
    code = "invalid_name"

    def __init__(self, component: str, problem: str) -> None:
        shown = component.encode("ascii", "backslashreplace").decode("ascii")
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"filename component {shown!r} {problem}")
        self.component = component


class MalformedRequest(RequestRefused):
    code = "malformed_request"


class PartSizeMismatch(RequestRefused):
    code = "part_size_mismatch"

    def __init__(self, expected_bytes: int, got_bytes: int | str) -> None:
        super().__init__(f"Part size mismatch: expected {expected_bytes}, got {got_bytes}")
        self.expected_bytes = expected_bytes


class PartCountMismatch(RequestRefused):
    code = "part_count_mismatch"
    text = "This file is being sent in another number of parts"


class DigestMismatch(RequestRefused):
    code = "digest_mismatch"

    def __init__(self, header: str = "Content-Digest") -> None:
        super().__init__(
            f"{header} does not match the body received; nothing was stored, send it again"
        )


class PartConflict(RequestRefused):
    code = "part_conflict"
    text = "Part already uploaded with other bytes"


class PartsMissing(RequestRefused):
    code = "parts_missing"

    def __init__(self, received: int, part_count: int) -> None:
        super().__init__(f"Not all parts uploaded: {received}/{part_count} complete")
        self.received = received
        self.part_count = part_count


class TargetRefused(RequestRefused):
    code = "target_refused"


class OffsetMismatch(RequestRefused):
    code = "offset_mismatch"

    def __init__(self, offset: int, wanted: int) -> None:
        super().__init__(f"The upload has {offset} bytes; appending at {wanted} is not possible")
        self.offset = offset


class NotAppendable(RequestRefused):
    code = "not_appendable"
    text = "This upload is made of others and takes no bytes of its own"


class BodyTooLong(RequestRefused):
    code = "body_too_long"

    def __init__(self, room_bytes: int) -> None:
        super().__init__(f"The body is longer than the {room_bytes} bytes that may still come")


class UnknownVersion(RequestRefused):
    code = "unknown_version"


class UnknownContentType(RequestRefused):
    code = "unknown_content_type"


class UploadTooLarge(RequestRefused):
    code = "upload_too_large"


class NotAuthenticated(LonghaulError):
    code = "not_authenticated"


class TokenExpired(NotAuthenticated):
    code = "token_expired"


class NotAuthorized(LonghaulError):
    code = "not_authorized"


class UploadNotFound(LonghaulError):
    code = "upload_not_found"
    text = "Upload not found: unknown id, or it was cancelled or has expired"


class UploadGone(UploadNotFound):
    code = "upload_gone"
    text = "The upload has expired or was deleted; start a new one"


class UploadNotOpen(LonghaulError):
    """The upload exists, but its state forbids what was asked."""

    code = "upload_not_open"

    def __init__(self, state: str, wanted: str) -> None:
        super().__init__(f"Upload is {state}: cannot {wanted}")
        self.state = state


class TakenOver(LonghaulError):
    code = "taken_over"
    text = "A newer request goes on with this upload; ask for the offset first"


class StorageFull(LonghaulError):
    code = "storage_full"
    text = "Not enough free space on the storage; free some or try later"


class TryAgain(LonghaulError):
    """The cause passes by itself; ``retry_after_seconds`` is when to come back."""

    code = "try_again"
    retry_after_seconds = 2


class BodyStalled(TryAgain):
    code = "body_stalled"

    def __init__(self, idle_seconds: float) -> None:
        super().__init__(
            f"No data arrived for {idle_seconds:.0f} s; the request was given up, send it again"
        )


class BodyCut(TryAgain):
    code = "body_cut"
    text = "The body broke off before its end; ask for the offset and go on"


class UploadLocked(TryAgain):
    code = "upload_locked"
    text = "Another request is writing this; try again in a moment"


class LeaseLost(TryAgain):
    code = "lease_lost"
    text = "This request was overtaken and nothing was stored; try again"


class UploadUnfinished(TryAgain):
    code = "upload_unfinished"

    def __init__(self, state: str, received: int, part_count: int | None) -> None:
        parts = "" if part_count is None else f": {received} of {part_count} parts have arrived"
        super().__init__(f"Upload is {state}{parts}; the file can be read once it is complete")


class LedgerBusy(TryAgain):
    code = "ledger_busy"
    text = "The database is busy or unreachable; try again"


class StorageUnavailable(TryAgain):
    code = "storage_unavailable"
    retry_after_seconds = 5
    text = "The storage does not answer at the moment; try again"


class WrongRoot(TryAgain):
    code = "wrong_root"
    text = "This upload's bytes are on another node's disk; try again"


class ShuttingDown(TryAgain):
    code = "shutting_down"
    text = "The server is restarting; try again"


class StorageFault(LonghaulError):
    """Trouble that no retry heals. Finalizing ends as ``failed`` with this message."""

    code = "storage_fault"


class ChecksumMismatch(StorageFault):
    code = "checksum_mismatch"

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(
            f"The whole file's SHA-256 is {actual}, but {expected} was promised; "
            "cancel this upload and send the file again"
        )


class PartsLost(StorageFault):
    """Stored parts have vanished; ``indexes`` names them, None means all of them."""

    code = "parts_lost"

    def __init__(self, indexes: Sequence[int] | None = None) -> None:
        super().__init__("Stored parts have vanished; send the missing parts again")
        self.indexes = None if indexes is None else tuple(indexes)


class TargetExists(StorageFault):
    code = "target_exists"
    text = "A file of the final name exists already and was left untouched"
