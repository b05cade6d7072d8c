import torch

from training.augment import AugmentConfig
from training.data.generated import GeneratedData
from training.data.views import training_batches


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
    assert len(alone) == 4
    for ours, theirs in zip(together, alone, strict=True):
        for part, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(part, expected, rtol=0, atol=0)
