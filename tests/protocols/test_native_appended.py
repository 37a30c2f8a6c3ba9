"""The native API asked for uploads that have no parts: they are none of its own."""

from __future__ import annotations

import pytest

from tests.harness.native import Native
from tests.harness.tus import Tus
from tests.protocols.test_native_part import token_for

pytestmark = pytest.mark.once(why="the ledger alone is asked")


@pytest.mark.parametrize("length", [11, None])
@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("GET", "/status"),
        ("GET", "/status?include_parts=true"),
        ("GET", "/tokens"),
        ("POST", "/complete"),
        ("DELETE", ""),
    ],
)
def test_the_native_api_knows_no_appended_uploads(
    tus: Tus, native: Native, length: int | None, method: str, route: str
) -> None:
    upload = tus.create(length, b"hello")
    answer = native.request(method, f"/upload/{upload.id}{route}")
    assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")
    assert tus.offset(upload) == 5


@pytest.mark.parametrize("length", [11, None])
def test_a_part_token_for_an_appended_upload_opens_nothing(
    tus: Tus, native: Native, length: int | None
) -> None:
    upload = tus.create(length, b"hello")
    answer = native.request(
        "PUT",
        f"/upload/{upload.id}/part/0",
        data=b"other bytes",
        headers={"Authorization": f"Bearer {token_for(upload.id)}"},
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")
    assert tus.offset(upload) == 5
