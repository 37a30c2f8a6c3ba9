"""Which storage is chosen: what the settings of each kind have in common."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings

from app import setting_types as types


class StorageSettings(BaseSettings):
    """The choice."""

    storage_backend: types.Backend = Field("local", description="Where finished files are stored")
