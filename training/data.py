"""Where patches and their truth come from, and how they reach a batch.

Patch i of a seed is always the same, and so is each of its random views: what a batch holds depends
on the configuration and the epoch alone, not on workers or on an interruption.
"""

import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training import synthetic
from training.augment import AugmentConfig, Sample, augment
from training.synthetic import Patch, SyntheticConfig, generate_patch
from wsi_pipeline.atomic import atomic_path

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]
"""Pixels uint8 [B, S, S, 3], nucleus classes int64 [B, S, S] and cellularity float32 [B]."""

# The truth of a pixel in one byte: its nucleus class, and whether it is of a malignant cell and of
# the section. So it can be cropped and turned with the picture, and the cellularity of any window
# remains exact.
_CLASS_BITS, _TUMOUR_BIT, _TISSUE_BIT = 0b0011, 0b0100, 0b1000


class GeneratedData(BaseModel):
    """A set of generated patches, kept on disk since making one takes as long as learning from it.

    ``validation`` patches come from another stream of the seed and with shifted stains.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: int = Field(default=2000, gt=0, description="number of patches to learn from")
    validation: int = Field(default=128, gt=0, description="number of patches to judge by")
    size: int = Field(default=512, ge=64, description="side of a patch, px at 0.5 µm/px")
    seed: int = 0
    cache: Path = Field(default=Path("runs/patches"), description="folder to keep patches in")
    workers: int = Field(default=1, ge=1, description="processes that generate patches")


def pack(patch: Patch) -> Sample:
    """Join picture and truth in one array, uint8 [S, S, 4]."""
    truth = patch.mask | (patch.tumour * np.uint8(_TUMOUR_BIT))
    truth |= patch.tissue * np.uint8(_TISSUE_BIT)
    return np.dstack([patch.rgb, truth])


def unpack(sample: Sample) -> Patch:
    """Undo ``pack``."""
    truth = sample[..., 3]
    return Patch(
        rgb=sample[..., :3],
        mask=truth & np.uint8(_CLASS_BITS),
        tumour=(truth & _TUMOUR_BIT) > 0,
        tissue=(truth & _TISSUE_BIT) > 0,
    )


def generated_sample(part: Literal["train", "validation"], seed: int, size: int, i: int) -> Sample:
    """Generate patch ``i`` of a part of a seed, packed."""
    rng = np.random.default_rng((seed, part == "validation", i))
    stain: Literal["usual", "shifted"] = "shifted" if part == "validation" else "usual"
    return pack(generate_patch(rng, SyntheticConfig(size=size, stain=stain)))


def generated_samples(
    data: GeneratedData, part: Literal["train", "validation"]
) -> NDArray[np.uint8]:
    """Return a part's samples, uint8 [N, S, S, 4], mapped from a file that is made if need be."""
    count = data.train if part == "train" else data.validation
    generator = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()[:12]
    name = f"{part}-{count}x{data.size}-seed{data.seed}-{generator}.npy"
    path = data.cache / name
    if not path.exists():
        data.cache.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial_path:
            shape = (count, data.size, data.size, 4)
            samples = open_memmap(partial_path, mode="w+", dtype=np.uint8, shape=shape)
            made = _generate(data, part, count)
            for i, sample in enumerate(track(made, f"generating {part} patches", count)):
                samples[i] = sample
            samples.flush()
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


def _generate(
    data: GeneratedData, part: Literal["train", "validation"], count: int
) -> Iterator[Sample]:
    make = partial(generated_sample, part, data.seed, data.size)
    if data.workers == 1:
        yield from map(make, range(count))
        return
    with ProcessPoolExecutor(
        data.workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(make, range(count), chunksize=8)


class Views(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Random views of samples; view ``v`` shows sample ``v % len(samples)``.

    Each view has its own generator, seeded by its number: counting on through the epochs gives ever
    new views, and the same number always the same view.
    """

    def __init__(self, samples: NDArray[np.uint8], config: AugmentConfig, seed: int) -> None:
        self.samples = samples
        self.config = config
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, view: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, view))
        patch = unpack(augment(rng, np.array(self.samples[view % len(self)]), self.config))
        return (
            torch.from_numpy(np.ascontiguousarray(patch.rgb)),
            torch.from_numpy(patch.mask.astype(np.int64)),
            torch.tensor(patch.cellularity, dtype=torch.float32),
        )


class EpochOrder(Sampler[int]):
    """The numbers of an epoch's views, shuffled; set ``epoch`` before each pass."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        return iter((order + self.epoch * self.count).tolist())


def training_loader(
    data: GeneratedData, config: AugmentConfig, *, batch: int, seed: int, workers: int
) -> tuple[DataLoader[tuple[Tensor, Tensor, Tensor]], EpochOrder]:
    """Return batches of random views, and the order whose epoch decides which."""
    views = Views(generated_samples(data, "train"), config, seed)
    order = EpochOrder(len(views), seed)
    loader = DataLoader(
        views,
        batch_size=batch,
        sampler=order,
        num_workers=workers,
        drop_last=len(views) >= batch,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )
    return loader, order


def validation_loader(
    data: GeneratedData, *, batch: int
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Return batches of the validation set as it is, whole patches in order."""
    views = Views(generated_samples(data, "validation"), AugmentConfig(), seed=0)
    return DataLoader(views, batch_size=batch)
