"""Which status an error gets by which protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app import errors
from app.protocols.problems import NATIVE, RESUMABLE, TUS, StatusTable, status_of


def kinds(base: type[errors.LonghaulError]) -> Iterator[type[errors.LonghaulError]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("app."):
            yield kind
            yield from kinds(kind)


KINDS = sorted(set(kinds(errors.LonghaulError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("table", [NATIVE, RESUMABLE, TUS], ids=["native", "resumable", "tus"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_expected_is_no_bug(kind: type[errors.LonghaulError], table: StatusTable) -> None:
    """A client does not try again what got a 500."""
    status = status_of(kind.__new__(kind), table)
    assert 400 <= status < 600
    assert status != 500
    if issubclass(kind, errors.TryAgain):
        assert status in (408, 409, 423, 503)
    if issubclass(kind, errors.RequestRefused):
        assert status < 500
