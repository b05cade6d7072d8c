"""Messages are cleared of where a slide lies and what its files are called.

File names of slides often carry a patient's name or number. Where a slide goes by another name,
what libraries say of its files must not give the true ones away.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from wsi_pipeline.files import is_url
from wsi_pipeline.slide.files import INDEXES, SlideFile, file_name, names_in_index

LEAST_TELLING = 5
"""Letters of a file's name; shorter ones are in every other word, and tell nobody."""


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
