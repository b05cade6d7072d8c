"""What a slide is called: its folder among the outputs, and its name in them.

File names of slides often carry a patient's name or number. Where that must not leave the archive,
`Names` "digest" has every output call the slide by a pseudonym made from its bytes alone: the same
slide has the same one everywhere, and nobody can go back from it who does not have the slide.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from wsi_pipeline.digests import is_slide_digest
from wsi_pipeline.errors import SlideError
from wsi_pipeline.locations import require_no_secret
from wsi_pipeline.shown import shown
from wsi_pipeline.slide.access import fingerprint, footprint
from wsi_pipeline.slide.files import INDEXES, content_digest, files_of, is_url, names_in_index

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

LEAST_TELLING = 5
"""Letters of a file's name; shorter ones are in every other word, and tell nobody."""

PSEUDONYM_DIGITS = 16
"""64 bits: among a million slides, two share a pseudonym with a chance of 3 in 10⁸."""


@dataclass(frozen=True, slots=True)
class SlideFile:
    """A slide's file as it was found, and what it is called from there on.

    It is made once, where a slide comes in; nobody asks again which files it has.

    Attributes:
        location: the path or fsspec URL that opens it.
        parts: all its files; see `wsi_pipeline.slide.files.files_of`.
        folder: name of its folder below the output folder.
        name: what outputs and messages call it.
        digest: of its bytes, if known already; see `wsi_pipeline.slide.files.content_digest`.
        fingerprint: of its files when they were read for it; see `wsi_pipeline.slide.access`.

    """

    location: str
    parts: tuple[str, ...]
    folder: str
    name: str
    digest: str | None = None
    fingerprint: str | None = None

    def seen_now(self) -> str:
        """Return the fingerprint that its files have now.

        Raises:
            SlideError: if one of them cannot be read.

        """
        return fingerprint(map(footprint, self.parts))


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


def file_name(location: str) -> str:
    """Return the last part of a path or URL, fit to be shown: on one line, and in UTF-8."""
    return shown(location.rsplit("/", 1)[-1])


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


def without_name(text: str, slide: SlideFile) -> str:
    """Replace a slide's place and file names in a message or traceback by the name it goes by."""
    return without_place(text, slide.location, slide.name, slide.parts)


def without_place(text: str, location: str, name: str, parts: Iterable[str] = ()) -> str:
    """Replace all that tells where a slide lies by the name it goes by, unless that is its file's.

    Libraries name a slide's other files too: those beside it, or in its own folder.
    """
    if name == file_name(location):
        return text
    folder, _, own = location.rpartition("/")
    stem = Path(own).stem
    known = {location, own, file_name(location), repr(own)[1:-1], *_beside(location)}
    known |= {*parts, *map(file_name, parts)}
    if len(stem) >= LEAST_TELLING:
        known.add(stem)
    places = [re.escape(f"{place}/") for place in (folder, folder.partition("://")[2]) if place]
    below = f"(?:{'|'.join(places)})" if places else "(?!)"
    said = [each for each in sorted(known - {""}, key=len, reverse=True) if each in text]
    tellings = [f"{below}?{re.escape(each)}" for each in said]
    tellings.append(rf"{below}[^\s:;,'\"()]*")
    # At once, since the name that it goes by may look like one of them.
    return re.sub("|".join(tellings), lambda _: name, text)


def _beside(location: str) -> set[str]:
    """Return the names of files that may be parts of a slide, as far as they tell anything."""
    if is_url(location):
        return set()
    try:
        names = {entry.name for entry in Path(location).parent.iterdir()}
    except OSError:
        names = set()
    if Path(location).suffix.lower() in INDEXES:
        names |= names_in_index(location)
    return {name for name in names if len(name) >= LEAST_TELLING}
