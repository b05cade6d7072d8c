"""How a slide is opened for scoring: under the name it is filed by, and with its bytes known."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wsi_pipeline.errors import SlideChangedError, WsiError
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.scoring.run_log import stage
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.redaction import without_name
from wsi_pipeline.slide.slide import Slide


def filed(found: SlideFile | str | Path, config: ScoreConfig) -> SlideFile:
    """Return a slide's file; one that comes as a path or URL is filed first.

    Raises:
        SlideError: if it cannot be filed; see `file_slide`.

    """
    return found if isinstance(found, SlideFile) else file_slide(str(found), config.names)


def open_filed(file: SlideFile, config: ScoreConfig) -> Slide:
    """Open a slide under the name that it is filed by.

    Raises:
        SlideError: if it cannot be read.
        MppError: if its pixel size is not known for certain.

    """
    with stage("open"):
        return Slide.open(
            file.location, backend=config.slide.backend, mpp=config.slide.mpp, name=file.name
        )


@contextmanager
def errors_named(file: SlideFile) -> Iterator[None]:
    """Have errors within the block call the slide by the name that it is filed by."""
    try:
        with enough_memory(f"{file.name}: working on it"):
            yield
    except WsiError as error:
        message = without_name(str(error), file)
        if message == str(error):
            raise
        raise type(error)(message) from error.__cause__


@dataclass(frozen=True, slots=True)
class SlideContent:
    """The bytes that a slide's files held when a run began with them.

    Attributes:
        slide: the opened slide.
        file: its files.
        fingerprint: of the files at that time; see `wsi_pipeline.slide.access.fingerprint`.
        digest: of the bytes; see `wsi_pipeline.slide.files.content_digest`.

    """

    slide: Slide
    file: SlideFile
    fingerprint: str
    digest: str

    @classmethod
    def of(cls, slide: Slide, file: SlideFile) -> Self:
        """Read the slide's bytes, unless they are known and its files are as they were then.

        Raises:
            SlideChangedError: if the bytes are not those that were filed.
            SlideError: if they cannot be read.

        """
        with stage("digest"):
            seen = file.seen_now()
            if file.digest is not None and file.fingerprint == seen:
                return cls(slide, file, seen, file.digest)
            digest = slide.digest()
            if digest != (file.digest or digest):
                raise _changed(slide, "it was looked into")
            return cls(slide, file, seen, digest)

    def require_unchanged(self) -> None:
        """Check that the files still hold these bytes; a mere touch is no change.

        Raises:
            SlideChangedError: if they hold others.
            SlideError: if they cannot be read.

        """
        if self.file.seen_now() != self.fingerprint and self.slide.digest() != self.digest:
            raise _changed(self.slide, "it was begun with")


def _changed(slide: Slide, when: str) -> SlideChangedError:
    return SlideChangedError(
        f"{slide.name}: the file has changed since {when}, so that no figure would be of one "
        f"slide. Wait until it is copied, and score it again."
    )
