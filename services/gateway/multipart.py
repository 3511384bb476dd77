"""multipart/form-data as a stream of events: nothing is held but the piece at hand (RFC 7578)."""

from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

_MAX_PARTS = 100


class MultipartError(ValueError):
    """The body is not the form it says it is; the text says why."""


@dataclass(frozen=True)
class PartBegin:
    """A new part. filename is None where the part is a plain field, "" where the name is empty."""

    name: str
    filename: str | None


@dataclass(frozen=True)
class PartData:
    """Some bytes of the part that began last."""

    data: bytes


class MultipartReader:
    """Feed it the request's body; it answers with what that piece completed."""

    def __init__(self, content_type: str) -> None:
        header = Message()
        header["content-type"] = content_type
        if header.get_content_type() != "multipart/form-data":
            raise MultipartError("Content-Type must be multipart/form-data")
        boundary = header.get_boundary()
        if not boundary:
            raise MultipartError("The Content-Type header names no boundary")
        try:
            self._parser = MultipartParser(
                boundary.encode("latin-1"),
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_begin": self._on_header_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
                max_header_size=16 * 1024,
            )
        except (FormParserError, UnicodeEncodeError) as error:
            raise MultipartError("The boundary is not valid") from error
        self.ended = False
        self._parts = 0
        self._headers: list[tuple[bytearray, bytearray]] = []
        self._events: list[PartBegin | PartData] = []

    def feed(self, data: bytes) -> list[PartBegin | PartData]:
        """The events that this piece of the body completes. MultipartError where it is no form."""
        self._events = []
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MultipartError("The multipart body is malformed") from error
        return self._events

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise MultipartError(f"The form has more than {_MAX_PARTS} parts")
        self._headers = []

    def _on_header_begin(self) -> None:
        self._headers.append((bytearray(), bytearray()))

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._headers[-1][0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers[-1][1].extend(data[start:end])

    def _on_headers_finished(self) -> None:
        for field, value in self._headers:
            if field.lower() == b"content-disposition":
                self._events.append(_part_begin(bytes(value)))
                return
        raise MultipartError("A part has no Content-Disposition")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _on_end(self) -> None:
        self.ended = True


def _part_begin(disposition: bytes) -> PartBegin:
    header = Message()
    # Header bytes as they are, one character each; names are decoded one by one below.
    header["content-disposition"] = disposition.replace(b"\n", b" ").decode("latin-1")
    if header.get_content_disposition() != "form-data":
        raise MultipartError("A part's Content-Disposition is not form-data")
    name, filename = None, None
    for key, value in header.get_params([], "content-disposition"):
        if key.lower() == "name" and name is None:
            name = _decoded(value)
        # The extended form, filename*=utf-8''..., comes last and wins (RFC 6266, section 4.3).
        elif key.lower() == "filename":
            filename = _decoded(value)
    if name is None:
        raise MultipartError("A part has no name")
    return PartBegin(name, filename)


def _decoded(value: str | tuple[str | None, str | None, str]) -> str:
    """Raw UTF-8, as browsers, curl and requests send it; else Latin-1; or the extended form."""
    if isinstance(value, tuple):
        return collapse_rfc2231_value(value)
    raw = value.encode("latin-1")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return value
