"""What a scanner and a dusty slide do to a picture."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.fields import FloatField, blur, noise
from training.synthetic.layout import blob


def photograph(rng: np.random.Generator, rgb: FloatField) -> NDArray[np.uint8]:
    """Blur, resample, add noise and compress, as scanners do; ``rgb`` in 0..1."""
    size = rgb.shape[0]
    rgb = blur(rgb, rng.uniform(-0.5, 0.9))
    if rng.random() < 0.35:
        out_of_focus = np.clip(0.5 + 0.6 * noise(rng, size, rng.uniform(60, 200)), 0, 1)[..., None]
        rgb += out_of_focus * (blur(rgb, rng.uniform(1.0, 2.2)) - rgb)
    if rng.random() < 0.4:  # scanned more coarsely: 0.69 µm/px is usual for spatial transcriptomics
        coarse = max(32, round(size * rng.uniform(0.6, 0.9)))
        small = np.asarray(
            cv2.resize(rgb, (coarse, coarse), interpolation=cv2.INTER_AREA), np.float32
        )
        small = _compress(rng, small) if rng.random() < 0.5 else small
        rgb = np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    if rng.random() < 0.4:
        rgb = rgb + rng.uniform(0.2, 1.5) * (rgb - blur(rgb, 1.2))
    rgb = rgb + rng.uniform(0, 0.06) * (1 - rgb)  # stray light: nothing is quite black
    rgb = rgb + rng.uniform(0, 0.018) * rng.standard_normal(rgb.shape, dtype=np.float32)
    if rng.random() < 0.7:
        rgb = _compress(rng, rgb)
    return np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)


def _compress(rng: np.random.Generator, rgb: FloatField) -> FloatField:
    """Store as JPEG and read again; ``rgb`` in 0..1."""
    picture = np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96))]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], quality)
    again = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32)
    return np.ascontiguousarray(again[..., ::-1]) / np.float32(255)


def add_dirt(rng: np.random.Generator, rgb: FloatField) -> None:
    """Sometimes drop a few grains on the section: dark ones, and clear ones with a dark rim."""
    if rng.random() < 0.75:
        return
    size = rgb.shape[0]
    for _ in range(rng.integers(1, 6)):
        centre = rng.uniform(0, size, 2)
        outline = blob(rng, centre, rng.uniform(2, 9))
        colour = (rng.uniform(0.05, 0.45) * np.array([1.0, 0.9, 0.8])).tolist()
        cv2.fillPoly(rgb, [np.round(outline * 8).astype(np.int32)], colour, shift=3)
        if rng.random() < 0.5:
            clear = centre + (outline - centre) * rng.uniform(0.4, 0.7)
            bright = rng.uniform(0.6, 1.0, 3).tolist()
            cv2.fillPoly(rgb, [np.round(clear * 8).astype(np.int32)], bright, shift=3)
