"""Which tests stay together when several processes run them (pytest-xdist)."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.harness.places import PLACES


class Scheduling(LoadScopeScheduling):
    """A module's tests stay together in their order, and those of all protocols in one place.

    They share servers, of which each process would start its own.
    """

    def _split_scope(self, nodeid: str) -> str:
        module, _, test = nodeid.partition("::")
        if module.startswith("tests/protocols/"):
            parameters = test.partition("[")[2]
            for place in PLACES:
                if parameters.startswith((f"{place}]", f"{place}-")):
                    return place
        return module
