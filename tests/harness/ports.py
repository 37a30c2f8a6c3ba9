"""Ports for servers."""

from __future__ import annotations

import random
import socket
from itertools import count, islice

#: Below those that Linux gives to clients (ip_local_port_range): a client would take one
#: between the moment it is found free and the moment the server has it.
_PORTS = range(10_000, 32_000)

#: Processes that run tests beside each other begin in different places.
_numbers = count(random.SystemRandom().randrange(len(_PORTS)))


def free_port() -> int:
    """Return a port of the loopback that was free a moment ago, another one at each call."""
    for number in islice(_numbers, len(_PORTS)):
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")
