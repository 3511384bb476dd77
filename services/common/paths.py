"""The public paths of stored files: /uploads/<session>/<name> and /results/<session>/<name>."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Area = Literal["uploads", "results"]

_SESSION_ID = re.compile(r"[0-9a-f]{32}\Z")
_RESERVED = re.compile(
    r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*%\u2028\u2029\ufeff\u200e\u200f\u202a-\u202e]'
)
_MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class StoredPath:
    """A file's public name. str() gives it back as the API shows it."""

    area: Area
    session_id: str
    filename: str

    def __str__(self) -> str:
        return f"/{self.area}/{self.session_id}/{self.filename}"


def is_session_id(text: str) -> bool:
    """Whether the text is a session's public id: 32 lower-case hex digits."""
    return _SESSION_ID.match(text) is not None


def session_id_of(reference: str) -> str:
    """The public id in what a client calls the session: the id, or the cookie's "<id>.<secret>"."""
    return reference.partition(".")[0]


def parse_path(text: str) -> StoredPath | None:
    """Reads a public path, the session given by its id or its cookie's value.

    None where it is not one, its file name not sanitised included: such a file cannot exist.
    """
    match text.split("/"):
        case ["", ("uploads" | "results") as area, reference, filename]:
            session_id = session_id_of(reference)
            if is_session_id(session_id) and filename == sanitise_filename(filename):
                return StoredPath(area, session_id, filename)
    return None


def sanitise_filename(name: str) -> str:
    """A name that is safe as one path component: NFC, no control or reserved characters.

    Takes the last component of a path, Unix or Windows; keeps at most 255 bytes of UTF-8 and the
    extension whole. A name of nothing but dots and spaces becomes "model". Idempotent.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    clean = unicodedata.normalize("NFC", _RESERVED.sub("_", last)).strip(" ").lstrip(".")
    clean = clean.encode("utf-8", "ignore").decode("utf-8").strip(" ")
    if not clean.strip(". "):
        return "model"
    stem, dot, extension = clean.rpartition(".")
    if not dot or not stem or len(extension.encode()) > 16:
        stem, dot, extension = clean, "", ""
    room = _MAX_NAME_BYTES - len((dot + extension).encode())
    short = stem.encode()[:room].decode("utf-8", "ignore")
    return short.rstrip(" ") + dot + extension
