"""The contract itself stays small, and says what it demands."""

from __future__ import annotations

import inspect

import pytest

from app.storage.base import PartWriter, Storage


def test_a_backend_has_at_most_ten_methods_to_write():
    assert 0 < len(Storage.__abstractmethods__) <= 10


@pytest.mark.parametrize("contract", [Storage, PartWriter])
def test_every_method_says_what_it_demands(contract):
    """Backends say only in what they differ; ``__enter__`` and ``__exit__`` are Python's."""
    methods = {
        name: method
        for name, method in vars(contract).items()
        if callable(inspect.unwrap(method)) or isinstance(method, property)
    }
    silent = [name for name, method in methods.items() if not name.startswith("_")]
    assert set(contract.__abstractmethods__) <= set(silent)
    assert [name for name in silent if not inspect.getdoc(methods[name])] == []
