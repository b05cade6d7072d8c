"""The losses of the segmentation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.truth import POSSIBLE, TUMOUR_NEAR
from wsi_pipeline.model.architecture import CLASSES

_SEEN_SHARE = 0.05
"""Which share of the pixels near a tumour is malignant at the least."""

# Of a pixel whose prediction is perfect, so that no exponent makes its gradient infinite.
_SMALLEST_DOUBT = 1e-7


def class_weights(truth: Tensor, classes: int) -> Tensor:
    """Weights against class imbalance within a batch: w = 1 / log(1.10 + f), equation 1.

    Args:
        truth: what is known of pixels, integers of any shape; those of no single class are not
            counted.
        classes: how many classes there are.

    Returns:
        float32 [classes]; f is the share of the batch's judged pixels that belong to the class.

    """
    return 1 / torch.log(1.10 + _frequency(truth, classes))


def focal_loss(logits: Tensor, truth: Tensor, gamma: float, *, balance: float = 1.0) -> Tensor:
    """Cross entropy that looks at hard pixels and at rare classes.

    Each pixel's cross entropy is scaled by (1 - p)^gamma, p being the probability it gives the
    truth (Lin et al. 2017), and by its class weight in the batch; the mean is taken over the
    weights, so that the loss does not grow with the number of rare pixels. Of a pixel that is one
    of several classes, p is the sum of theirs, and f in its weight too. Pixels that nobody judged
    count for nothing.

    Args:
        logits: [B, classes, H, W].
        truth: what is known of each pixel, int64 [B, H, W]; see ``training.data.truth``.
        gamma: 0 is the plain cross entropy.
        balance: power of the class weights: 1 is equation 1, 0 weighs all classes alike.

    """
    classes = logits.shape[1]
    possible = _possible(truth.device)
    excluded = ~possible[truth][..., :classes].movedim(-1, 1)
    log_p = F.log_softmax(logits.float(), dim=1).masked_fill(excluded, -torch.inf)
    entropy = -torch.logsumexp(log_p, dim=1).clamp_max(0)
    frequency = possible[:, :classes].float() @ _frequency(truth, classes)
    weight_of = torch.log(1.10 + frequency) ** -balance
    weights = weight_of[truth] * ~possible[truth].all(dim=-1)
    focus = (-torch.expm1(-entropy)).clamp_min(_SMALLEST_DOUBT) ** gamma
    return (weights * focus * entropy).sum() / weights.sum().clamp_min(1e-12)


def tumour_near_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Ask of pictures with a tumour that some of their pixels are taken for it.

    Where all that is known is that a tumour is near, the twentieth of those pixels that looks most
    malignant should be.

    Args:
        logits: [B, classes, H, W].
        truth: what is known of each pixel, int64 [B, H, W].

    Returns:
        The mean of -log p over the pictures that have such pixels; 0 if none has.

    """
    p = F.softmax(logits.float(), dim=1)[:, CLASSES.index("malignant")]
    losses = [
        -torch.log(of_picture[marked].topk(count).values.mean().clamp_min(1e-6))
        for of_picture, marked in zip(p, truth == TUMOUR_NEAR, strict=True)
        if (count := int(_SEEN_SHARE * marked.sum()))
    ]
    return torch.stack(losses).mean() if losses else 0 * logits.sum()


def _frequency(truth: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(truth.flatten(), minlength=classes)[:classes]
    return (counts / counts.sum().clamp_min(1)).float()


def _possible(device: torch.device) -> Tensor:
    """Return which classes a pixel of each number may be of, bool [256, 4]."""
    bits = torch.from_numpy(POSSIBLE[:, None] & (1 << torch.arange(len(CLASSES)).numpy()))
    return (bits > 0).to(device)
