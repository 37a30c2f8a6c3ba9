"""The receivers, in the order of the tables. A new one is a module here and a line below."""

from __future__ import annotations

from bench.loads import Durability
from bench.peers.base import Peer
from bench.peers.native import NativeParts
from bench.peers.nginx import Nginx, NginxSmallBuffer
from bench.peers.nodes import Nodes
from bench.peers.plain_flask import PlainFlask
from bench.peers.pump import PumpFileEach, UnhashedPump
from bench.peers.reading import LonghaulGrowing, LonghaulReading, NginxReading
from bench.peers.resumable import ResumableForm, ResumableOctet
from bench.peers.sink import Sink
from bench.peers.tus import LonghaulTus, LonghaulTusChecksum, LonghaulTusWhole
from bench.peers.tus_node import TusNode, TusNodeWhole
from bench.peers.tusd import Tusd, TusdWhole

ALL: tuple[Peer, ...] = (
    Sink(Durability.NONE),
    Nginx(Durability.RELAXED),
    NginxSmallBuffer(Durability.RELAXED),
    PlainFlask(Durability.RELAXED),
    UnhashedPump(Durability.RELAXED),
    PumpFileEach(Durability.RELAXED),
    NativeParts(Durability.RELAXED),
    ResumableOctet(Durability.RELAXED),
    ResumableForm(Durability.RELAXED),
    TusNode(Durability.RELAXED),
    Tusd(Durability.RELAXED),
    LonghaulTus(Durability.RELAXED),
    LonghaulTusChecksum(Durability.RELAXED),
    TusNodeWhole(Durability.RELAXED),
    TusdWhole(Durability.RELAXED),
    LonghaulTusWhole(Durability.RELAXED),
    Nginx(Durability.STRICT),
    PlainFlask(Durability.STRICT),
    UnhashedPump(Durability.STRICT),
    PumpFileEach(Durability.STRICT),
    NativeParts(Durability.STRICT),
    ResumableOctet(Durability.STRICT),
    ResumableForm(Durability.STRICT),
    Nodes(Durability.STRICT, 1),
    Nodes(Durability.STRICT, 2),
    TusNode(Durability.STRICT),
    Tusd(Durability.STRICT),
    LonghaulTus(Durability.STRICT),
    LonghaulTusChecksum(Durability.STRICT),
    TusNodeWhole(Durability.STRICT),
    TusdWhole(Durability.STRICT),
    LonghaulTusWhole(Durability.STRICT),
    NginxReading(),
    LonghaulReading(),
    LonghaulGrowing(),
)
