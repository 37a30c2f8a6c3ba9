"""The settings of the S3 storage: a part of ``Settings``, for reading them apart.

Keys may come in any way that AWS's tools know: a profile, a role, a container's or
an instance's identity. Those named here are settings because ``.env`` may hold
them, which AWS's tools do not read.
"""

from __future__ import annotations

import importlib.util
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from app import setting_types as types
from app.storage_settings import StorageSettings

_Bucket = Annotated[
    str,
    BeforeValidator(types.stripped),
    # The names of S3's first years, which many servers still take, included.
    Field(pattern=r"^[A-Za-z0-9._-]{3,255}$"),
    types.Allowed("the name of a bucket: 3 to 255 letters, digits, dots, hyphens and underscores"),
]
_Region = Annotated[
    str,
    BeforeValidator(types.stripped),
    Field(pattern=r"^[A-Za-z0-9-]+$"),
    types.Allowed("the name of a region, such as us-east-1"),
]
_Checksums = Annotated[
    Literal["when_supported", "when_required"],
    BeforeValidator(types.lowered),
    types.Allowed("when_supported or when_required"),
]


class S3Settings(StorageSettings):
    """Where the bucket is, and how to get in."""

    s3_endpoint: types.BaseUrl = Field("", description="URL of the S3 server; by default AWS's")
    s3_bucket: _Bucket = Field("uploads", description="Bucket of the files")
    s3_region: _Region = Field("us-east-1", description="Region of the bucket")
    s3_request_checksums: _Checksums = Field(
        default_factory=lambda given: "when_required" if given["s3_endpoint"] else "when_supported",
        description="Whether requests carry checksums, in trailers, over https",
    )
    s3_larger_last_part: types.Switch = Field(
        False, description="The S3 server takes a last part that is larger than the others"
    )
    aws_access_key_id: types.Word = Field(
        "", description="Access key; by default looked for as AWS's tools do"
    )
    aws_secret_access_key: types.Password = Field(
        SecretStr(""), description="Secret of AWS_ACCESS_KEY_ID"
    )
    aws_session_token: types.Password = Field(
        SecretStr(""), description="Session token that belongs to temporary keys"
    )

    @property
    def s3_checksums_sent(self) -> bool:
        """Whether requests carry checksums: trailers are for https."""
        return self.s3_request_checksums == "when_supported" and not self.s3_endpoint.startswith(
            "http:"
        )

    @model_validator(mode="after")
    def _usable_s3(self) -> S3Settings:
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key.get_secret_value()):
            raise PydanticCustomError(
                "contradiction",
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: give both or none",
            )
        if self.storage_backend == "s3" and importlib.util.find_spec("botocore") is None:
            raise PydanticCustomError(
                "extra", "STORAGE_BACKEND is s3: its library is missing, pip install '.[s3]'"
            )
        return self
