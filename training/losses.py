"""The losses of the segmentation."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.truth import IGNORED, POSSIBLE, TUMOUR_NEAR
from wsi_pipeline.model.architecture import CLASSES

_SEEN_SHARE = 0.05
"""Which share of the pixels near a tumour is malignant at the least."""

_MIDDLE_COUNTS = 4.0
"""How much more than another pixel one in the middle of a nucleus counts."""

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
    p = F.softmax(logits.float(), dim=1)[:, CLASSES.index("malignant")].flatten(1)
    marked = (truth == TUMOUR_NEAR).flatten(1)
    # All at once and without asking how many there are: a GPU would wait for each answer.
    counts = (_SEEN_SHARE * marked.sum(dim=1)).long()
    highest = p.masked_fill(~marked, 0).topk(max(1, int(_SEEN_SHARE * p.shape[1])), dim=1).values
    chosen = torch.arange(highest.shape[1], device=p.device) < counts[:, None]
    mean = (highest * chosen).sum(dim=1) / counts.clamp_min(1)
    asked = counts > 0
    return -(torch.log(mean.clamp_min(1e-6)) * asked).sum() / asked.sum().clamp_min(1)


def centre_loss(logits: Tensor, nearness: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of how near pixels are to the middles of nuclei.

    Args:
        logits: [B, H, W].
        nearness: from 0, far, to 1, in the middle; NaN where nobody marked middles. [B, H, W]
        truth: what is known of each pixel, int64 [B, H, W]; where nothing is, nothing is asked.

    Returns:
        The mean over the pixels asked; those in the middle of a nucleus count several times, since
        most are far from any.

    """
    known = ~torch.isnan(nearness) & (truth != IGNORED)
    target = torch.nan_to_num(nearness)
    weights = known * (1 + _MIDDLE_COUNTS * target)
    entropy = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (weights * entropy).sum() / weights.sum().clamp_min(1e-12)


def _frequency(truth: Tensor, classes: int) -> Tensor:
    # As bincount would, for which a GPU waits.
    counts = torch.stack([(truth == label).sum() for label in range(classes)])
    return (counts / counts.sum().clamp_min(1)).float()


@cache
def _possible(device: torch.device) -> Tensor:
    """Return which classes a pixel of each number may be of, bool [256, 4]."""
    bits = torch.from_numpy(POSSIBLE[:, None] & (1 << torch.arange(len(CLASSES)).numpy()))
    return (bits > 0).to(device)
