import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.data.truth import IGNORED, NO_TUMOUR, NUCLEUS, TUMOUR_NEAR
from training.losses import class_weights, focal_loss, tumour_near_loss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, generator=generator)
    truth = torch.randint(0, 3, (2, 8, 8), generator=generator)
    return logits, truth


def test_class_weights_are_those_of_equation_1():
    truth = torch.tensor([0] * 90 + [1] * 9 + [3])
    expected = [1 / np.log(1.10 + f) for f in (0.90, 0.09, 0.0, 0.01)]
    np.testing.assert_allclose(class_weights(truth, 4), expected, rtol=1e-5)


def test_without_focus_it_is_the_weighted_cross_entropy(batch):
    logits, truth = batch
    expected = F.cross_entropy(logits, truth, weight=class_weights(truth, 4))
    torch.testing.assert_close(focal_loss(logits, truth, gamma=0), expected)


@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_it_follows_the_formula_pixel_by_pixel(batch, gamma):
    logits, truth = batch
    probability = logits.softmax(1).numpy()
    weights = class_weights(truth, 4).numpy()
    total = weight = 0.0
    for b, row, column in np.ndindex(*truth.shape):
        true_class = truth[b, row, column]
        p = probability[b, true_class, row, column]
        total += weights[true_class] * (1 - p) ** gamma * -np.log(p)
        weight += weights[true_class]
    assert float(focal_loss(logits, truth, gamma)) == pytest.approx(total / weight, rel=1e-5)


def test_focus_turns_from_easy_pixels_to_hard_ones():
    truth = torch.zeros(1, 1, 2, dtype=torch.int64)
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 0, 0, 0], logits[0, 0, 0, 1] = 4.0, -4.0
    logits.requires_grad_()
    shares = []
    for gamma in (0.0, 2.0):
        (gradient,) = torch.autograd.grad(focal_loss(logits, truth, gamma), logits)
        easy, hard = gradient[0, 0, 0].abs()
        shares.append(float(easy / hard))
    assert shares[1] < shares[0] / 100


def test_a_perfect_prediction_has_a_finite_gradient():
    logits = torch.tensor([[[[100.0]], [[-100.0]]]], requires_grad=True)
    focal_loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64), gamma=1).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0, 2])
def test_unjudged_pixels_count_for_nothing(batch, gamma):
    logits, truth = batch
    narrow = focal_loss(logits[..., :5], truth[..., :5], gamma)
    truth = truth.clone()
    truth[..., 5:] = IGNORED
    torch.testing.assert_close(focal_loss(logits, truth, gamma), narrow)


def test_a_batch_without_a_judged_pixel_has_no_loss(batch):
    logits, truth = batch
    logits.requires_grad_()
    loss = focal_loss(logits, torch.full_like(truth, IGNORED), 1.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(logits.grad).all()


def test_balance_is_a_power_of_the_weights(batch):
    logits, truth = batch
    expected = F.cross_entropy(logits, truth, weight=class_weights(truth, 4).sqrt())
    torch.testing.assert_close(focal_loss(logits, truth, 0, balance=0.5), expected)


def test_unbalanced_and_without_focus_it_is_the_plain_cross_entropy(batch):
    logits, truth = batch
    expected = F.cross_entropy(logits, truth)
    torch.testing.assert_close(focal_loss(logits, truth, 0, balance=0), expected)


def test_of_a_pixel_of_one_of_several_classes_no_more_is_asked(batch):
    logits, truth = batch
    truth = truth.clone()
    truth[0] = NUCLEUS
    p = logits.softmax(1)
    known = -p.gather(1, truth[1:, None].expand(2, -1, -1, -1)).log()[1, 0]
    one_of_three = -p[0, 1:].sum(0).log()
    f = torch.bincount(truth[1].flatten(), minlength=4) / 64
    weights = 1 / torch.log(1.1 + torch.cat([f[truth[1]].flatten(), f[1:].sum().expand(64)]))
    expected = (weights * torch.cat([known.flatten(), one_of_three.flatten()])).sum()
    torch.testing.assert_close(focal_loss(logits, truth, 0), expected / weights.sum())
    # What excludes one class alone is content with any of the others.
    benign = torch.tensor([[[[9.0]], [[9.0]], [[9.0]], [[-9.0]]]])
    assert float(focal_loss(benign, torch.full((1, 1, 1), NO_TUMOUR), 1)) < 1e-6


@pytest.mark.parametrize("gamma", [0.5, 1])
def test_no_exponent_makes_a_gradient_infinite(gamma):
    logits = torch.tensor([[[[100.0, 0.0]], [[-100.0, 0.0]]]], requires_grad=True)
    focal_loss(logits, torch.tensor([[[0, IGNORED]]]), gamma).backward()
    assert torch.isfinite(logits.grad).all()


def test_a_tumour_that_is_near_is_looked_for_where_it_is_likeliest():
    logits = torch.zeros(2, 4, 10, 10)
    logits[0, 3, 0, :5] = 5.0
    logits.requires_grad_()
    truth = torch.full((2, 10, 10), TUMOUR_NEAR)
    truth[1] = 0
    loss = tumour_near_loss(logits, truth)
    expected = -logits[0].softmax(0)[3, 0, :5].mean().log()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad[0, :, 1:].eq(0).all()
    assert logits.grad[1].eq(0).all()
    logits = logits.detach()
    assert float(tumour_near_loss(logits, torch.zeros_like(truth))) == 0
    assert float(focal_loss(logits, torch.full_like(truth, TUMOUR_NEAR), 1)) == 0
