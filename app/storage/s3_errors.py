"""What the S3 client's errors mean: vendor errors in, the contract's errors out.

Messages are for an operator who looks at /health: which setting to look at, and
never a key, a host or a bucket's name. The vendor's own words become the cause.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping

from botocore import exceptions as vendor
from botocore.exceptions import BotoCoreError, ClientError

from app.errors import LonghaulError, StorageFault, StorageFull, StorageUnavailable

#: A multipart upload that has been completed or aborted. Ceph says NoSuchKey where
#: AWS says NoSuchUpload; a HEAD has no body, so its code is the bare status.
GONE = frozenset({"NoSuchUpload", "NoSuchKey", "404"})

#: ``If-None-Match: *`` met an object.
EXISTS = frozenset({"PreconditionFailed", "412"})

#: ``If-None-Match: *`` met an object that has been removed.
CONFLICT = "ConditionalRequestConflict"

#: The server does not know ``If-None-Match`` in this request.
UNSUPPORTED = frozenset({"NotImplemented", "501"})

_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REGION = "The bucket is in another region: check S3_REGION and S3_ENDPOINT"
_FORBIDDEN = (
    "The S3 server forbids this: the access key needs the right to list the bucket, and to "
    "read, write and delete its objects and multipart uploads"
)
_SESSION = "The S3 session token is not valid any more: renew AWS_SESSION_TOKEN"
_LENGTH = "The S3 server refuses checksums in trailers: set S3_REQUEST_CHECKSUMS=when_required"

#: S3's error code (or the status, where an answer has no body) → what to do about it.
_UNAVAILABLE: Mapping[str, str] = {
    "InvalidAccessKeyId": f"The S3 server does not know the access key: {_KEYS}",
    "SignatureDoesNotMatch": f"The S3 server refuses the secret key: {_KEYS}",
    "RequestTimeTooSkewed": (
        "The clocks of this server and of the S3 server differ too much: set them by NTP"
    ),
    "NoSuchBucket": "The bucket does not exist: create it, or check S3_BUCKET",
    "AccessDenied": _FORBIDDEN,
    "AllAccessDisabled": _FORBIDDEN,
    "AccountProblem": _FORBIDDEN,
    "403": _FORBIDDEN,
    "ExpiredToken": _SESSION,
    "InvalidToken": _SESSION,
    "TokenRefreshRequired": _SESSION,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "MissingContentLength": _LENGTH,
    "411": _LENGTH,
}

_DAMAGED_CODES = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"})

_FULL = frozenset({"QuotaExceeded", "StorageFull", "XMinioStorageFull", "InsufficientStorage"})

#: What no retry heals.
_FAULTS: Mapping[str, str] = {
    "EntityTooSmall": "The S3 server refuses parts of this size: they are too small for it",
    "EntityTooLarge": "The S3 server refuses a file of this size: it is too large for it",
    "KeyTooLongError": "The S3 server cannot hold a file of this name: it is too long",
    "InvalidObjectName": "The S3 server cannot hold a file of this name",
    "XMinioInvalidObjectName": "The S3 server cannot hold a file of this name",
}

_NO_KEYS = (
    "No S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or provide them in another way that AWS's tools know"
)
_UNREACHABLE = "The S3 server cannot be reached: is it running, and is S3_ENDPOINT right?"
_CERTIFICATE = (
    "The S3 server's certificate is not trusted: AWS_CA_BUNDLE names a file of authorities "
    "to trust instead of the usual ones"
)
#: What was received is not what was sent.
DAMAGED = "Bytes were damaged on their way to the S3 server; try again"

_SILENT = "The S3 server does not answer at the moment; try again"

#: The client's own errors → what to do; the first class that fits counts.
_CLIENT_SIDE: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((vendor.NoCredentialsError, vendor.PartialCredentialsError), _NO_KEYS),
    ((vendor.CredentialRetrievalError, vendor.TokenRetrievalError, vendor.SSOError), _NO_KEYS),
    ((vendor.ProfileNotFound, vendor.ConfigParseError), _NO_KEYS),
    ((vendor.EndpointConnectionError, vendor.ConnectTimeoutError), _UNREACHABLE),
    ((vendor.ProxyConnectionError, vendor.SSLError), _UNREACHABLE),
    ((BotoCoreError,), _SILENT),
)


def code_of(error: BaseException | None) -> str:
    """Return S3's code of an answer that refuses, "" for any other error."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def contract_error(error: ClientError | BotoCoreError) -> LonghaulError:
    """Return what a vendor's error is in terms of the contract; its cause is for the caller."""
    if isinstance(error, ClientError):
        code = code_of(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _FULL or status == 507:
            return StorageFull()
        if code in _DAMAGED_CODES:
            return StorageUnavailable(DAMAGED)
        if code in _FAULTS:
            return StorageFault(_FAULTS[code])
        return StorageUnavailable(_UNAVAILABLE.get(code, _SILENT))
    if _is_about_certificate(error):
        return StorageUnavailable(_CERTIFICATE)
    return StorageUnavailable(
        next(text for kinds, text in _CLIENT_SIDE if isinstance(error, kinds))
    )


def _is_about_certificate(error: BaseException | None) -> bool:
    """Tell a server nobody vouches for from one that hangs up, which is an SSLError as well."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Let errors of the S3 client come out as the contract's errors, with them as the cause."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise contract_error(error) from error
