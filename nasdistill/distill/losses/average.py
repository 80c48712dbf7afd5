"""The mean over the images of a batch, in which the teacher may count for more on some images than on others."""

from torch import Tensor


def over_images(loss_b: Tensor, weight_b: Tensor | None) -> Tensor:
    """Mean of `loss_b` (b,), each image times its weight (b,) where weights are given.

    Weights have mean 1 over the pool, not over the batch: a batch of images that the teacher gets wrong teaches less.
    """
    return loss_b.mean() if weight_b is None else (loss_b * weight_b).mean()
