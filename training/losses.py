"""The loss of the segmentation stage."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.picture import IGNORED


def class_weights(truth: Tensor, classes: int) -> Tensor:
    """Weights against class imbalance within a batch: w = 1 / log(1.10 + f), equation 1.

    Args:
        truth: class ids, integers of any shape; pixels that nobody judged are not counted.
        classes: how many classes there are.

    Returns:
        float32 [classes]; f is the share of the batch's judged pixels that belong to the class.

    """
    counts = torch.bincount(truth.flatten(), minlength=classes)[:classes]
    frequency = counts / counts.sum().clamp_min(1)
    return 1 / torch.log(1.10 + frequency.float())


def focal_loss(logits: Tensor, truth: Tensor, gamma: float, *, balance: float = 1.0) -> Tensor:
    """Cross entropy that looks at hard pixels and at rare classes.

    Each pixel's cross entropy is scaled by (1 - p)^gamma, p being the probability it gives the
    truth (Lin et al. 2017), and by its class weight in the batch; the mean is taken over the
    weights, so that the loss does not grow with the number of rare pixels. Pixels that nobody
    judged (``IGNORED``) count for nothing.

    Args:
        logits: [B, classes, H, W].
        truth: class ids, int64 [B, H, W].
        gamma: 0 is the plain cross entropy.
        balance: power of the class weights: 1 is equation 1, 0 weighs all classes alike.

    """
    entropy = F.cross_entropy(logits.float(), truth, ignore_index=IGNORED, reduction="none")
    classes = logits.shape[1]
    of_class = class_weights(truth, classes) ** balance
    weights = of_class[truth.clamp_max(classes - 1)] * (truth != IGNORED)
    focus = (-torch.expm1(-entropy)) ** gamma
    return (weights * focus * entropy).sum() / weights.sum().clamp_min(1e-12)
