"""Which of the two reading libraries opens a slide.

Both decode the same JPEG and JPEG 2000 tiles with the same libraries: on level 0 their pixels are
equal. On lower levels whose downsample is not a whole number OpenSlide places pixels with sub-pixel
interpolation where tiffslide takes the nearest; `tests/integration/test_slide.py` holds the
difference to the tolerance stated there.
"""

from collections.abc import Callable, Sequence

from wsi_pipeline.errors import SlideError
from wsi_pipeline.files import is_url
from wsi_pipeline.slide.access import is_away, one_line, unavailable
from wsi_pipeline.slide.dicom import require_placed_frames
from wsi_pipeline.slide.files import files_of
from wsi_pipeline.slide.readers.openslide_reader import OpenSlideReader, detected_vendor
from wsi_pipeline.slide.readers.protocol import DICOM, PLAIN_VENDORS, Backend, Reader
from wsi_pipeline.slide.readers.tiffslide_reader import TiffSlideReader
from wsi_pipeline.slide.readers.unread import why_unread
from wsi_pipeline.slide.tiff.headers import Picture
from wsi_pipeline.slide.tiff.unsupported import fault_of

READERS: dict[str, Callable[[str], Reader]] = {
    "openslide": OpenSlideReader,
    "tiffslide": TiffSlideReader,
}


def open_reader(location: str, backend: Backend, pictures: Sequence[Picture]) -> tuple[str, Reader]:
    """Open a slide with the reader named, or with the one that suits it best.

    Args:
        location: a path or an fsspec URL.
        backend: the reader.
        pictures: what the file's directories say; none if it is no TIFF.

    Raises:
        SlideUnavailableError: if the file cannot be reached now.
        SlideError: if no reader can read it, or not all that is in it.

    """
    vendor = None if is_url(location) else detected_vendor(location)
    if not is_url(location) and vendor in {None, *PLAIN_VENDORS} and (fault := fault_of(pictures)):
        raise SlideError(f"{location}: {fault}.")
    if vendor == DICOM:
        require_placed_frames(files_of(location))
    errors = []
    for candidate in _candidates(location, backend, vendor):
        try:
            reader = READERS[candidate](location)
        except SlideError:
            raise
        # The readers raise errors of their own, of tifffile's, zarr's and the codecs'.
        except Exception as error:
            if is_away(error):
                raise unavailable(location, error) from error
            errors.append(f"{candidate}: {one_line(error)}")
        else:
            # By URL nothing tells the vendor before.
            if (
                is_url(location)
                and reader.vendor in PLAIN_VENDORS
                and (fault := fault_of(pictures))
            ):
                reader.close()
                raise SlideError(f"{location}: {fault}.")
            return candidate, reader
    said = "; ".join(errors)
    raise SlideError(f"{location}: {why_unread(location, vendor, pictures, said)} ({said})")


def _candidates(location: str, backend: Backend, vendor: str | None) -> tuple[str, ...]:
    if backend != "auto":
        return (backend,)
    if is_url(location):
        return ("tiffslide",)
    return ("tiffslide", "openslide") if vendor in PLAIN_VENDORS else ("openslide", "tiffslide")
