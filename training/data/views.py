"""How pictures reach a batch: in an order and as views that the epoch alone decides.

View v of a seed is always the same: what a batch holds depends on the configuration and the epoch,
not on workers or on an interruption.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training import distributed
from training.augment import AugmentConfig, Shrink, augment, shrunk
from training.data.picture import Pictures, padded, unpack
from training.data.truth import unsure_at_edges
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import REGRESSION_STRIDE

Batch = tuple[Tensor, ...]
"""Pixels uint8 [B, S, S, 3], nucleus classes int64 [B, S, S] and cellularity float32 [B]; what is
drawn on the device adds how near pixels are to the middle of a nucleus, float32 [B, S, S]."""


class Views(Dataset[Batch]):
    """Random views of pictures; view ``v`` shows picture ``v % len(pictures)``.

    Each view has its own generator, seeded by its number: counting on through the epochs gives ever
    new views, and the same number always the same view.
    """

    def __init__(
        self, pictures: Pictures, config: AugmentConfig, seed: int, shrink: Shrink = 1
    ) -> None:
        if (config.crop is not None or config.scale != (1, 1)) and pictures[0].scores:
            raise ConfigError(
                "A judged score is of its whole patch: scaling or cropping it would falsify the "
                "score. Remove `scale` and `crop` from the configuration's `augment`."
            )
        self.pictures = pictures
        self.config = config
        self.seed = seed
        self.shrink = shrink

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, view: int) -> Batch:
        rng = np.random.default_rng((self.seed, view))
        picture = self.pictures[view % len(self)]
        sample = augment(rng, picture.sample, self.config)
        # Of all pixels, before some of the truth is left out.
        score = picture.cellularity if picture.scores else unpack(sample).cellularity
        patch = unpack(shrunk(sample, self.shrink))
        mask = unsure_at_edges(patch.mask) if self.config.unsure_edges else patch.mask
        return (
            torch.from_numpy(np.ascontiguousarray(patch.rgb)),
            torch.from_numpy(mask.astype(np.int64)),
            torch.tensor(score, dtype=torch.float32),
        )


class EpochOrder(Sampler[int]):
    """The numbers of an epoch's views, shuffled; set ``epoch`` before each pass, and ``start``.

    Pictures come in an endless row of shuffled passes over all of them, and an epoch takes the next
    batches of it: as many as one pass needs, all of them full. So no picture is left out, and over
    the epochs all are shown alike.

    Of several processes each takes every ``world``-th, so that their batches together are those of
    one process with the batch of all.
    """

    def __init__(
        self, count: int, seed: int, rank: int = 0, world: int = 1, *, batch: int = 1
    ) -> None:
        """Begin at the first epoch.

        Args:
            count: number of pictures.
            seed: of the shuffling.
            rank: this process's number.
            world: number of processes.
            batch: pictures of a step, of all processes together.

        """
        self.count = count
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.start = 0
        """How many of this process's views of the epoch were seen before."""
        self._shown = -(-count // batch) * batch

    def __len__(self) -> int:
        return self._shown // self.world

    def __iter__(self) -> Iterator[int]:
        begin = self.epoch * self._shown
        row = np.arange(begin, begin + len(self) * self.world)
        passes, places = np.divmod(row, self.count)
        order = {
            number: np.random.default_rng((self.seed, number)).permutation(self.count)
            for number in np.unique(passes).tolist()
        }
        views = [
            number * self.count + int(order[number][place])
            for number, place in zip(passes.tolist(), places.tolist(), strict=True)
        ]
        return iter(views[self.rank :: self.world][self.start :])


def training_batches(
    pictures: Pictures,
    config: AugmentConfig,
    *,
    batch: int,
    seed: int,
    workers: int,
    shrink: Shrink = 1,
) -> tuple[DataLoader[Batch], EpochOrder]:
    """Return batches of random views, and the order whose epoch decides which.

    Of several processes each gets its share of every batch.

    Raises:
        ConfigError: If a batch cannot be shared out evenly.

    """
    world = distributed.world()
    if batch % world:
        raise ConfigError(
            f"A batch of {batch} cannot be shared out evenly to {world} processes; "
            "choose another `batch` in the configuration's `fit`, or another --nproc-per-node."
        )
    views = Views(pictures, config, seed, shrink)
    order = EpochOrder(len(views), seed, distributed.rank(), world, batch=batch)
    loader = DataLoader(
        views,
        batch_size=batch // world,
        sampler=order,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    return loader, order


def validation_batches(pictures: Pictures, shrink: Shrink = 1) -> DataLoader[Batch]:
    """Return the pictures as they are, whole, in order and one by one, since their sizes differ."""
    whole = padded(pictures, REGRESSION_STRIDE * shrink)
    return DataLoader(Views(whole, AugmentConfig(), seed=0, shrink=shrink), 1)
