"""The loss of the segmentation stage."""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(truth: Tensor, classes: int) -> Tensor:
    """Weights against class imbalance within a batch: w = 1 / log(1.10 + f), equation 1.

    Args:
        truth: class ids, integers of any shape.
        classes: how many classes there are.

    Returns:
        float32 [classes]; f is the share of the batch's pixels that belong to the class.

    """
    frequency = torch.bincount(truth.flatten(), minlength=classes) / truth.numel()
    return 1 / torch.log(1.10 + frequency.float())


def weighted_focal_loss(logits: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """Cross entropy that looks at rare classes and at hard pixels.

    Each pixel's cross entropy is scaled by (1 - p)^gamma, p being the probability it gives the
    truth (Lin et al. 2017), and by its class weight in the batch; the mean is taken over the
    weights, so that the loss does not grow with the number of rare pixels.

    Args:
        logits: [B, classes, H, W].
        truth: class ids, int64 [B, H, W].
        gamma: 0 is the plain weighted cross entropy.

    """
    weights = class_weights(truth, logits.shape[1])[truth]
    entropy = F.cross_entropy(logits.float(), truth, reduction="none")
    focus = (-torch.expm1(-entropy)) ** gamma
    return (weights * focus * entropy).sum() / weights.sum()
