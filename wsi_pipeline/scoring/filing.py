"""What a slide is called: its folder among the outputs, and its name in them.

File names of slides often carry a patient's name or number. Where that must not leave the archive,
`Names` "digest" has every output call the slide by a pseudonym made from its bytes alone: the same
slide has the same one everywhere, and nobody can go back from it who does not have the slide.
"""

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from wsi_pipeline.digests import is_slide_digest
from wsi_pipeline.errors import SlideError
from wsi_pipeline.files import require_no_secret
from wsi_pipeline.slide.files import SlideFile, content_digest, file_name, files_of
from wsi_pipeline.slide.redaction import without_place

Names = Literal["file", "digest"]

UNREAD = "a slide that was not read"
"""What a slide is called of whose bytes no pseudonym could be made."""

MAX_FOLDER_BYTES = 143
"""The longest name that encrypted shares of network drives take (eCryptfs); others take 255."""

_FORBIDDEN = frozenset('<>:"/\\|?*')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever the suffix."""
_OURS = re.compile(r"nights(-[0-9]+)?", re.IGNORECASE)
"""Where the nights' pages are."""

PSEUDONYM_DIGITS = 16
"""64 bits: among a million slides, two share a pseudonym with a chance of 3 in 10⁸."""


def file_slide(location: str, names: Names, folder: str | None = None) -> SlideFile:
    """File a slide that is scored by itself; "digest" reads all of it.

    Args:
        location: a path or an fsspec URL.
        names: what the slide may be called.
        folder: name of its folder where names may be shown; by default its file's.

    Raises:
        SlideError: if the name cannot be a folder's, or the slide cannot be read.

    """
    require_no_secret(location)
    own = folder or slide_folder(location, Path()).name
    file = SlideFile(location, tuple(files_of(location)), own, file_name(location))
    if names == "file":
        return file
    try:
        seen = file.seen_now()
        digest = content_digest(file.parts)
    except (SlideError, OSError) as error:
        said = without_place(str(error), location, UNREAD, file.parts)
        kind = type(error) if isinstance(error, SlideError) else SlideError
        raise kind(said) from error.__cause__
    called = pseudonym(digest)
    return replace(file, folder=called, name=called, digest=digest, fingerprint=seen)


def name_unread(location: str, names: Names) -> str:
    """Return what to call a slide whose bytes are not known."""
    return UNREAD if names == "digest" else file_name(location)


def pseudonym(digest: str) -> str:
    """Return the name that a slide of this digest goes by where its own must not be shown."""
    if not is_slide_digest(digest):
        raise SlideError("A slide has no digest of its bytes to go by: it cannot be given a name.")
    return f"slide-{digest[:PSEUDONYM_DIGITS]}"


def slide_folder(location: str | Path, out: Path) -> Path:
    """Return the folder of a slide's outputs: its file's name without the suffix, below `out`.

    The name is one that all common file systems take. One that has to be changed for it gets a
    digest of the file's name, so that no two slides come to share a folder by it.

    Raises:
        SlideError: if nothing is left of the name, or the location is a URL that holds a secret.

    """
    require_no_secret(str(location))
    own = str(location).rsplit("/", 1)[-1]
    # macOS decomposes letters: the same name must give the same folder everywhere.
    stem = normalize("NFC", Path(own).stem)
    name = "".join(
        "_" if letter in _FORBIDDEN or not letter.isprintable() else letter for letter in stem
    ).strip(". ")
    if not name:
        raise SlideError(f"{location}: a slide needs a name to file its results under. Rename it.")
    if _RESERVED.fullmatch(name) or _OURS.fullmatch(name):
        name = f"_{name}"
    if name != stem or len(name.encode()) > MAX_FOLDER_BYTES:
        digest = sha256(own.encode(errors="surrogateescape")).hexdigest()[:8]
        room = name.encode()[: MAX_FOLDER_BYTES - len(digest) - 1]
        name = f"{room.decode(errors='ignore').strip('. ')}-{digest}"
    return out / name
