"""What readers of labelled images share: images, tables and points, each refused with its name.

A set may have many faults. Training stops at the first one; ``training.data.check`` collects them.
So what lists a set takes a ``report``, which either raises or remembers.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Never

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.data.picture import PICTURE_MPP
from training.ground_truth import Nuclei
from wsi_pipeline.errors import ConfigError

Report = Callable[[str], object]
"""What is done about a fault; if it returns, the faulty entry is left out."""

_MODES = {"L": "grey", "1": "black and white", "P": "palette", "RGBA": "RGB with transparency"}


def refuse(fault: str) -> Never:
    """Raise a fault as a ``ConfigError``."""
    raise ConfigError(fault)


@contextmanager
def reported(report: Report) -> Iterator[None]:
    """Pass on what is refused within the block to a report."""
    try:
        yield
    except ConfigError as error:
        report(str(error))


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an RGB image of 8 bits a channel, uint8 [H, W, 3]; alpha may be there if all is opaque.

    Raises:
        ConfigError: If it is missing, damaged, or not RGB.

    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; download the set again or remove its labels.")
    try:
        with Image.open(path) as image:
            if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
                return np.array(image.convert("RGB"))
            if image.mode != "RGB":
                raise ConfigError(
                    f"{path} is a {_MODES.get(image.mode, image.mode)} image; save it as RGB with "
                    "8 bits a channel."
                )
            return np.array(image)
    except UnidentifiedImageError as error:
        raise ConfigError(f"{path} is not an image; download it again.") from error
    # Pillow raises a SyntaxError for a broken PNG, a ValueError for strips outside of the file.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(
            f"{path} is truncated or damaged ({error}); download it again."
        ) from error


def read_mask(path: Path, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Read a black and white image that says where something is, bool [H, W].

    Args:
        path: the image.
        image: [H, W, 3], the picture that it is of.

    Raises:
        ConfigError: If it is missing, damaged, not grey, has other values than 0 and 255, or is of
            another size than the picture.

    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; the picture beside it cannot be used without it.")
    try:
        with Image.open(path) as mask:
            values = np.array(mask.convert("L") if mask.mode == "1" else mask)
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is no readable image ({error}); download it again.") from error
    if values.ndim != 2 or not np.isin(values, (0, 255)).all():
        raise ConfigError(f"{path} is not black and white alone; download the set again.")
    if values.shape != image.shape[:2]:
        raise ConfigError(
            f"{path} is {values.shape[1]}×{values.shape[0]} px and its picture "
            f"{image.shape[1]}×{image.shape[0]}; they belong to different images. Download the set "
            "again."
        )
    return values > 0


def rescaled(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
    """Bring a picture from ``mpp`` µm/px to the 0.5 µm/px that the network takes, [H', W', 3]."""
    height, width = (round(side * mpp / PICTURE_MPP) for side in rgb.shape[:2])
    how = cv2.INTER_AREA if mpp < PICTURE_MPP else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=how), dtype=np.uint8)


def rescaled_mask(mask: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Bring a mask from ``mpp`` µm/px to 0.5 µm/px: true where most of a pixel is, [H', W']."""
    share = rescaled(mask.astype(np.uint8) * np.uint8(255), mpp)
    return np.asarray(share > 127)


def read_table(
    path: Path, columns: Sequence[str], report: Report = refuse
) -> list[tuple[str, dict[str, str]]]:
    """Read a CSV file with a header: for each row its place, for messages, and its fields.

    A row whose number of fields is not the header's is reported: a decimal comma makes one.

    Raises:
        ConfigError: If the file is missing, not text, or lacks one of ``columns``.

    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; download the set again.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(f"{path}, line {i}", row) for i, row in enumerate(csv.reader(file), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a CSV table ({error}); download it again.") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    if missing := [name for name in columns if name not in header]:
        raise ConfigError(
            f"{path} lacks the column {', '.join(missing)}: its header is '{','.join(header)}'. "
            f"Name the columns {','.join(columns)} and separate them by commas."
        )
    rows = []
    for place, row in lines[1:]:
        if len(row) == len(header):
            fields = (field.strip() for field in row)
            rows.append((place, dict(zip(header, fields, strict=True))))
        else:
            report(
                f"{place}, has {len(row)} fields and the header {len(header)}; separate fields by "
                "commas and write decimals with a point."
            )
    return rows


def within(path: Path, nuclei: Nuclei, image: NDArray[np.uint8]) -> Nuclei:
    """Return nuclei of which each is in a pixel of the image.

    Annotators' clicks fall onto the far edges too; these are moved into the last pixel.

    Args:
        path: where the points come from, for messages.
        nuclei: points in pixels of the image.
        image: [H, W, 3]

    Raises:
        ConfigError: If a point is outside of the image.

    """
    size = np.array(image.shape[1::-1], dtype=np.float64)
    outside = np.flatnonzero(~((nuclei.xy >= 0) & (nuclei.xy <= size)).all(axis=1))
    if len(outside):
        x, y = nuclei.xy[outside[0]]
        raise ConfigError(
            f"{path} puts {len(outside)} of {len(nuclei.xy)} nuclei outside of its image of "
            f"{size[0]:.0f}×{size[1]:.0f} px, the first at {x:g},{y:g}. Points are x,y in pixels "
            "of the image: does the file belong to this image, at this resolution?"
        )
    return Nuclei(xy=np.minimum(nuclei.xy, np.nextafter(size, 0)), classes=nuclei.classes)
