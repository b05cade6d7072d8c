"""Pictures brought to another size: exact area means first, then a low-pass and interpolation."""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import MAX_UPSAMPLING_OF_LEVEL, Size

Rgb = NDArray[np.uint8]
"""uint8 [rows, columns, 3]."""


def area_mean(pixels: Rgb, columns: int, rows: int) -> Rgb:
    """Average blocks of pixels; edge pixels fill up the last ones.

    >>> area_mean(np.array([[[0, 0, 0], [2, 4, 6]]], np.uint8), 2, 1)
    array([[[1, 2, 3]]], dtype=uint8)

    Args:
        pixels: uint8 [rows, columns, 3].
        columns: width of a block, in pixels.
        rows: height of a block, in pixels.

    Returns:
        one pixel for each block.

    """
    if columns == rows == 1:
        return pixels
    height, width = pixels.shape[:2]
    size = Size(-(-width // columns), -(-height // rows))
    extra_x, extra_y = size.width * columns - width, size.height * rows - height
    if extra_x or extra_y:
        pixels = np.pad(pixels, ((0, extra_y), (0, extra_x), (0, 0)), mode="edge")
    # The exact mean, where the ratio is whole, and OpenCV's fastest way.
    shrunk = cv2.resize(pixels, (size.width, size.height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)


def resample(pixels: Rgb, box: tuple[float, float, float, float], size: Size) -> Rgb:
    """Resample a box of a picture to `size`.

    Shrinking averages whole blocks of pixels (the exact area mean, and OpenCV's fastest way), then
    takes what is left of the ratio, less than 2, with a Gaussian low-pass and cubic interpolation.

    Args:
        pixels: uint8 [rows, columns, 3].
        box: (x, y, width, height) in pixels of the picture, fractions allowed.
        size: of the result.

    """
    x, y, width, height = box
    blocks_x = max(1, int(width / size.width * MAX_UPSAMPLING_OF_LEVEL))
    blocks_y = max(1, int(height / size.height * MAX_UPSAMPLING_OF_LEVEL))
    pixels = area_mean(pixels, blocks_x, blocks_y)
    x, y, width, height = x / blocks_x, y / blocks_y, width / blocks_x, height / blocks_y
    scale_x, scale_y = width / size.width, height / size.height
    left, top = round(x), round(y)
    aligned = max(abs(x - left), abs(y - top)) < 0.02
    if aligned and max(abs(width - size.width), abs(height - size.height)) < 0.02:
        return np.ascontiguousarray(pixels[top : top + size.height, left : left + size.width])
    if max(scale_x, scale_y) > MAX_UPSAMPLING_OF_LEVEL:
        sigma_x, sigma_y = (0.5 * max(0.0, scale**2 - 1) ** 0.5 for scale in (scale_x, scale_y))
        blurred = cv2.GaussianBlur(pixels, (0, 0), max(sigma_x, 0.01), sigmaY=max(sigma_y, 0.01))
        pixels = np.asarray(blurred, np.uint8)
    if aligned:
        # A tenth of what warping takes. Told the factors, OpenCV keeps to them; told the size, it
        # would take the box for whole pixels.
        resized = cv2.resize(
            pixels[top:, left:], None, fx=1 / scale_x, fy=1 / scale_y, interpolation=cv2.INTER_CUBIC
        )
        return np.ascontiguousarray(resized[: size.height, : size.width], np.uint8)
    # Pixel centres lie at half-integers: output i is at x + (i + 0.5) * scale - 0.5 of the input.
    onto_source = np.array(
        [[scale_x, 0, x + scale_x / 2 - 0.5], [0, scale_y, y + scale_y / 2 - 0.5]], np.float64
    )
    placed = cv2.warpAffine(
        pixels,
        onto_source,
        (size.width, size.height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(placed, np.uint8)
