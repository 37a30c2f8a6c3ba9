"""Media types: kept if they are ones, else ignored."""

from __future__ import annotations

import pytest

from app.domain.media_types import media_type


@pytest.mark.parametrize("text", ["video/mp4", "text/plain; charset=utf-8", "application/x.a+json"])
def test_a_media_type_is_kept(text: str) -> None:
    assert media_type(text) == text


@pytest.mark.parametrize(
    "text",
    [None, "", "video", "a/b/c", "text/html\r\nX: y", "text/pl ain", "/", "a/" + "b" * 200, "a/\0"],
)
def test_what_is_no_media_type_is_ignored(text: str | None) -> None:
    assert media_type(text) is None
