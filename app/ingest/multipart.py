"""Forms (multipart/form-data, RFC 7578): fields read into memory, the file handed on as a body.

The parser sees all that frames a form and the fields' values. The file's bytes
it sees only where it must find their end: as a rule the file is the last part
and its length is known, so the end follows from the Content-Length, and the
bytes go from the socket to the storage as those of a raw body do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)

from app.errors import BodyStalled, MalformedRequest, UnknownContentType
from app.ingest.body import Body
from app.ingest.form_files import LastFile, SoughtFile, SpooledFile
from app.ingest.pump import TURN_SECONDS, Ended, Guard, pump
from app.storage.spool import Spool

#: All of a form but its file: nine fields, the longest of 900 bytes, an
#: application's own, and their headers.
MAX_FIELDS_BYTES = 64 * 1024

#: Parts of a form; nine fields, the file, and an application's own.
MAX_PARTS = 64

#: RFC 2046 section 5.1.1.
MAX_BOUNDARY_CHARACTERS = 70

#: Fields that say that a part is not the file's own bytes (RFC 9110 section 8.4, RFC
#: 2045 section 6), and their values that say the contrary, which some libraries send.
_CODINGS = ("Content-Encoding", "Content-Transfer-Encoding")
_NO_CODINGS = frozenset({"", "identity", "binary", "8bit", "7bit"})

#: What is taken at a time while fields are read: little, because the file's
#: first bytes among it are copied once more.
_HEAD_PIECE_BYTES = 16 * 1024

#: Told each field's name and value; what it raises ends the reading.
OnField = Callable[[str, str], None]


class Form:
    """A form that is being read, front to back.

    ``file_names``: what the part with the file may be called. Errors of the
    form are MalformedRequest, raised wherever its bytes are looked at.
    """

    def __init__(
        self, body: Body, boundary: str, file_names: Collection[str], on_field: OnField
    ) -> None:
        if not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS:
            raise MalformedRequest(
                f"The form needs a boundary of at most {MAX_BOUNDARY_CHARACTERS} characters"
            )
        try:
            self._parser = PushMultipartParser(boundary, max_segment_count=MAX_PARTS)
        except MultipartError as error:
            raise MalformedRequest("The form's boundary is malformed") from error
        self.body = body
        self._delimiter_bytes = len(b"\r\n--" + boundary.encode())
        self._file_names = file_names
        self._on_field = on_field
        self._field: str | None = None  # that is being read
        self._value = bytearray()
        self._file: MultipartSegment | None = None
        self._read_bytes = 0  # that the parser has seen, without the file's
        self._ahead = b""  # taken from the body, not seen by the parser yet

    @property
    def file_type(self) -> str | None:
        """The Content-Type of the file's part, without parameters."""
        return None if self._file is None else self._file.content_type

    def read_to_file(self, idle_timeout_seconds: float, guard: Guard) -> None:
        """Read the fields that come before the file; the next byte is the file's first.

        Raises BodyStalled, what ``guard`` returns, and MalformedRequest where
        there is no file.
        """
        piece = memoryview(bytearray(_HEAD_PIECE_BYTES))
        while not self._found_file():
            if self.body.ended:
                self._feed_all(self._ahead)
                self.finish()
                raise MalformedRequest(f"The form has no file called {self._shown_names()}")
            if len(self._ahead) + self._read_bytes > MAX_FIELDS_BYTES:
                raise MalformedRequest(f"The form's fields are over {MAX_FIELDS_BYTES} bytes")
            if self.body.cut:
                raise MalformedRequest("The form broke off within its fields; send it again")
            idle_seconds = self.body.idle_seconds()
            if reason := guard(idle_seconds):
                raise reason
            if idle_seconds >= idle_timeout_seconds:
                raise BodyStalled(idle_seconds)
            self.body.wait(min(TURN_SECONDS, idle_timeout_seconds))
            self._ahead += piece[: self.body.take(piece)]

    def file(self, lengths: Collection[int]) -> Body:
        """Return the file as a body; ``lengths`` it may have, in bytes, if they are known.

        Fields that follow the file are told before the body ends. Its own
        ``length`` is known where the file is the last part.
        """
        if self.body.length is not None:
            rest = self.body.length - self.body.received + len(self._ahead)
            # Browsers end the last line, some libraries do not.
            ends = [self._delimiter_bytes + len(end) for end in (b"--", b"--\r\n")]
            fitting = [length for length in lengths if rest - length in ends]
            if len(fitting) == 1:
                return LastFile(self, self._ahead, fitting[0], rest - fitting[0])
        return SoughtFile(self, self._ahead)

    def spooled(
        self, spool: Spool, limit_bytes: int, idle_timeout_seconds: float, guard: Guard
    ) -> Body:
        """Read the file into ``spool``, and the fields behind it; return it as a body.

        Raises what explains a form that does not come whole, or a file of more
        than ``limit_bytes``.
        """
        file = SoughtFile(self, self._ahead)
        transfer = pump(
            file,
            spool,
            limit_bytes=limit_bytes,
            idle_timeout_seconds=idle_timeout_seconds,
            guard=guard,
        )
        if transfer.reason is not None:
            raise transfer.reason
        if transfer.ended is Ended.STALLED:
            raise BodyStalled(self.body.idle_seconds())
        if transfer.ended is Ended.TOO_LONG:
            raise MalformedRequest(
                f"A file of more than {limit_bytes} bytes must come behind its fields"
            )
        if transfer.ended is Ended.CUT:
            raise MalformedRequest("The form broke off before its end; send it again")
        return SpooledFile(spool)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Let the parser see ``data``; yield what of it is the file's."""
        self._read_bytes += len(data)
        try:
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment):
                    self._begin(event)
                elif event is None:
                    self._end()
                elif self._field is not None:
                    self._value += event
                else:
                    self._read_bytes -= len(event)
                    yield event
        except ParserLimitReached as error:
            raise MalformedRequest(
                f"The form has over {MAX_PARTS} parts, or a part with too many or too long headers"
            ) from error
        except MultipartError as error:
            raise MalformedRequest("The form is malformed") from error
        if self._read_bytes > MAX_FIELDS_BYTES:
            raise MalformedRequest(f"The form's fields are over {MAX_FIELDS_BYTES} bytes")

    def skip(self, count: int) -> None:
        """Count the file's bytes, which the parser has not seen: a part may tell its length."""
        assert self._file is not None
        if self._file.header("Content-Length", str(count)) != str(count):
            raise MalformedRequest("The form's file has another length than it tells")
        self._file.bytes_received = count

    def finish(self) -> None:
        """Note that the body has ended. Raises MalformedRequest if the form has not."""
        try:
            for _ in self._parser.parse(b""):  # which ends it
                pass
        except MultipartError as error:
            raise MalformedRequest("The form broke off before its last boundary") from error

    def _found_file(self) -> bool:
        """Let the parser see all headers that are here, up to those of the file and no further."""
        while (end := self._ahead.find(b"\r\n\r\n")) >= 0:
            headers, self._ahead = self._ahead[: end + 4], self._ahead[end + 4 :]
            self._feed_all(headers)
            if self._file is not None:
                return True
        return False

    def _feed_all(self, data: bytes) -> None:
        for _ in self.feed(data) if data else ():
            pass

    def _begin(self, segment: MultipartSegment) -> None:
        name = segment.name or ""
        self._field = None if name in self._file_names else name
        if self._field is None:
            if self._file is not None:
                raise MalformedRequest("The form has more than one file")
            if segment.filename is None:
                raise UnknownContentType(
                    "The file must be sent as a blob; chunkFormat 'base64' is not taken"
                )
            for name in _CODINGS:
                if segment.header(name, "").strip().lower() not in _NO_CODINGS:
                    raise UnknownContentType(
                        f"The form's file is not decoded: send it as it is, without {name}"
                    )
            self._file = segment
        elif segment.filename is not None:
            raise MalformedRequest(f"The form's file must be called {self._shown_names()}")

    def _end(self) -> None:
        if self._field is not None:
            try:
                self._on_field(self._field, self._value.decode())
            except UnicodeDecodeError as error:
                raise MalformedRequest("A field of the form is not UTF-8") from error
            self._value.clear()

    def _shown_names(self) -> str:
        return " or ".join(sorted(self._file_names))
