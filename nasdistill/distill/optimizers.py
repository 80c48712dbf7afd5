"""The optimisers of a stage: AdamW, and Muon for matrices beside AdamW for the rest."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from nasdistill.config import OptimizerName

WEIGHT_DECAY = 5e-4
GRADIENT_CLIP = 10.0
MOMENTUM = 0.9
UPDATE_RMS = 0.2
"""Root mean square of a Muon update at a learning rate of 1: AdamW's usual one, so that one rate serves both
(Liu et al., Muon is Scalable for LLM Training, arXiv 2502.16982, eq. 4)."""
SMALLEST_SIDE = 8
"""Rows and columns that a matrix has at least: in fewer directions there is nothing to balance."""
# a step's polynomial a x + b x^3 + c x^5 pulls singular values into about [0.7, 1.2] (Jordan et al., Muon, 2024)
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def adamw(modules: Sequence[nn.Module], learning_rate: float, on_gpu: bool = False) -> tuple[Optimizer, ...]:
    """AdamW for all that is trainable."""
    return (_adamw(parameter_groups(modules), learning_rate, on_gpu),)


def muon(modules: Sequence[nn.Module], learning_rate: float, on_gpu: bool = False) -> tuple[Optimizer, ...]:
    """Muon for the dense convolutions and linear layers, AdamW for the rest: both at the same learning rate."""
    matrices = dense_weights(modules)
    rest = _adamw(parameter_groups(modules, without=matrices), learning_rate, on_gpu)
    return (Muon(matrices, learning_rate), rest) if matrices else (rest,)


OPTIMIZERS: dict[OptimizerName, Callable[..., tuple[Optimizer, ...]]] = {"adamw": adamw, "muon": muon}


def set_learning_rate(optimizers: Iterable[Optimizer], learning_rate: float) -> None:
    """The rate of the next step, for all of them."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate


def step_all(
    loss: Tensor, optimizers: Sequence[Optimizer], parameters: Sequence[Tensor], scaler: torch.amp.GradScaler
) -> bool:
    """The backward pass of `loss`, and a step of all optimisers, or of none: where the gradient is not finite.

    Gradients of all `parameters` are clipped together, so what is not finite in one would be in every other. Returns
    whether the step was made; with an enabled `scaler` (float16) a step now and then is not.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)))
    for optimizer in optimizers if finite else ():
        scaler.step(optimizer)
    scaler.update()
    return finite


class Muon(Optimizer):
    """Momentum whose step is orthogonalised: every direction of a weight moves equally far (Jordan et al., Muon, 2024).

    A short trial has some hundred steps. Plain momentum and AdamW spend them on the few directions that dominate the
    gradient; what a cut and pruned network has to repair lies in all of them.

    Torch's own takes two-dimensional weights alone and computes in bfloat16, which CPUs without it only emulate. Here a
    convolution's weight is a matrix of a row for each output channel, weights of one shape are done in one go, and the
    arithmetic is float32 in the smaller of the two Gram matrices.

    Args:
        params: weights of two or four dimensions.
        lr: learning rate, of AdamW's scale (`UPDATE_RMS`).
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = WEIGHT_DECAY) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002  torch's signature
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            moments, gradients = [self._momentum(weight) for weight in weights], [weight.grad for weight in weights]
            torch._foreach_lerp_(moments, gradients, 1.0 - MOMENTUM)
            ahead = torch._foreach_lerp(moments, gradients, 1.0 - MOMENTUM)  # Nesterov's look ahead
            torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(weights, orthogonal_updates(ahead), alpha=group["lr"] * UPDATE_RMS)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonal_updates(gradients: Sequence[Tensor]) -> list[Tensor]:
    """For each gradient the orthogonal matrix nearest to it, of root mean square 1 and the gradient's shape."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, gradient in enumerate(gradients):
        by_shape.setdefault(gradient.shape, []).append(index)
    updates = list(gradients)
    for shape, indices in by_shape.items():
        stacked = torch.stack([_as_matrix(gradients[index]) for index in indices])
        found = orthogonalised(stacked) * max(stacked.shape[1:]) ** 0.5
        for index, update in zip(indices, found, strict=True):
            updates[index] = _as_weight(update, shape)
    return updates


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with all singular values brought near 1, by Newton-Schulz iterations.

    An iteration multiplies X by a polynomial in X Xᵀ. All these polynomials commute, so they are gathered in the smaller
    Gram matrix and X, which for a convolution is nine times as long as wide, is multiplied once at the end.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    gram, factors = wide @ wide.mT, None
    for last in (*[False] * (ITERATIONS - 1), True):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        factors = factor if factors is None else factor @ factors
        if not last:
            gram = factor @ gram @ factor
    found = factors @ wide
    return found.mT if tall else found


def _as_matrix(weight: Tensor) -> Tensor:
    """A row for each output; a convolution's columns in the order of channels_last, in which they lie in memory."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight


def _as_weight(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The reverse of `_as_matrix`."""
    if len(shape) == 2:
        return matrix
    rows, channels, height, width = shape
    return matrix.view(rows, height, width, channels).permute(0, 3, 1, 2)


def dense_weights(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Trainable weights of ungrouped convolutions and linear layers that are at least SMALLEST_SIDE wide and high."""
    found = {}
    for module in modules:
        for layer in module.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear) or getattr(layer, "groups", 1) > 1:
                continue
            weight = layer.weight
            if weight.requires_grad and min(weight.shape[0], weight[0].numel()) >= SMALLEST_SIDE:
                found[id(weight)] = weight
    return list(found.values())


def parameter_groups(modules: Iterable[nn.Module], without: Iterable[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: weights that decay, and biases and BatchNorm parameters that do not."""
    left_out = {id(parameter) for parameter in without}
    decayed, plain = [], []
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad and id(parameter) not in left_out:
                (decayed if parameter.ndim > 1 else plain).append(parameter)
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]


def _adamw(groups: list[dict[str, Any]], learning_rate: float, on_gpu: bool) -> Optimizer:
    # one kernel for all tensors; launching kernels is what limits a GPU here
    return AdamW(groups, lr=learning_rate, foreach=not on_gpu, fused=on_gpu)
