"""The settings of the SMB storage, a part of ``Settings``."""

from __future__ import annotations

import importlib.util

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from app import setting_types as types
from app.storage_settings import StorageSettings


class SmbSettings(StorageSettings):
    """Where the share is, and who uses it how."""

    smb_host: types.Host = Field("localhost", description="SMB server: host name or address")
    smb_port: types.Port = Field(445, description="Port of the SMB server")
    smb_user: types.Word = Field("", description="User of the SMB server")
    smb_pass: types.Password = Field(SecretStr(""), description="Password of SMB_USER")
    smb_domain: types.Word = Field("", description="Domain of SMB_USER, where it needs one")
    smb_share: types.ShareName = Field("share", description="Name of the share")
    smb_path: types.SharePath = Field("", description="Folder on the share; made if missing")
    smb_encryption: types.Encryption = Field(
        "auto", description="Encrypt what is stored: where the server can, always, or never"
    )
    smb_connections: types.Count = Field(
        4, description="Connections of each worker process to the SMB server"
    )
    smb_timeout_secs: types.Seconds = Field(
        30, description="Give a connection up when the SMB server is silent for so long"
    )

    @model_validator(mode="after")
    def _can_use_smb(self) -> SmbSettings:
        if self.storage_backend != "smb":
            return self
        if importlib.util.find_spec("smbprotocol") is None:
            raise PydanticCustomError(
                "extra", "STORAGE_BACKEND is smb: its library is missing, pip install '.[smb]'"
            )
        if not self.smb_user:
            raise PydanticCustomError("no_user", "STORAGE_BACKEND is smb: SMB_USER is not set")
        return self
