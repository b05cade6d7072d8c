import torch

from training.augment import AugmentConfig
from training.data.generated import GeneratedData
from training.data.views import EpochOrder, training_batches


def test_processes_that_load_give_the_same_batches_as_none(tmp_path):
    pictures = GeneratedData(train=9, size=64, cache=tmp_path).nuclei("train")[1:]
    augment = AugmentConfig(crop=48, turns="flips", hue=0.05)

    def epochs(workers: int) -> list[list[torch.Tensor]]:
        batches, order = training_batches(pictures, augment, batch=3, seed=4, workers=workers)
        seen = []
        for order.epoch in (0, 1):
            seen += [list(batch) for batch in batches]
        return seen

    alone, together = epochs(0), epochs(2)
    assert len(alone) == 6
    for ours, theirs in zip(together, alone, strict=True):
        for part, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(part, expected, rtol=0, atol=0)


def test_every_batch_is_full_and_every_picture_comes_as_often():
    order = EpochOrder(146, 0, batch=50)
    seen = []
    for order.epoch in range(146):
        views = list(order)
        assert len(views) == len(order) == 150
        seen += views
    assert sorted(seen) == list(range(150 * 146))
    order.epoch, order.start = 3, 100
    assert list(order) == seen[3 * 150 + 100 : 4 * 150]
    # Several processes share what one would see.
    shares = [list(EpochOrder(146, 0, rank, 2, batch=50)) for rank in (0, 1)]
    assert [view for pair in zip(*shares, strict=True) for view in pair] == seen[:150]
