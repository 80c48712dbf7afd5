"""Losses between the neck maps of student and teacher, a pyramid level each, after the connectors.

Maps are (b, c_l, h_l, w_l); the student's have the teacher's channels and size. Attention losses are relative to the
teacher's energy and the others to its spread or energy too, so that a weight means the same for every teacher. All are 0
when student and teacher agree. `weight_b` (b,) says how much the teacher counts on each image (None: 1).

Sums run over the channels_last view of the maps: on a CPU the gradient then has the layout of the student's own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nasdistill.distill.losses.average import over_images

CHANNEL_SHARE, SPATIAL_SHARE = 0.7, 0.3
CWD_TEMPERATURE = 1.0
MGD_MASKED = 0.65
LEAST_ENERGY = 1e-6


def channel_attention(
    student_bchw: Sequence[Tensor], teacher_bc: Sequence[Tensor], weight_b: Tensor | None = None
) -> Tensor:
    """Squared distance of the channel attention (mean over space), relative to the teacher's energy.

    Args:
        student_bchw: connected student maps, a level each, or their means over space (b, c_l, 1, 1).
        teacher_bc: the teacher's maps averaged over space, (b, c_l).

    Source of channel attention as a target: Woo et al., CBAM, ECCV 2018, eq. 2 (average-pooled branch), without its MLP.
    """
    pooled = [maps.float().mean(dim=(2, 3)) for maps in student_bchw]
    return _relative(pooled, [target.float() for target in teacher_bc], weight_b)


def spatial_attention(
    student_bhw: Sequence[Tensor], teacher_bhw: Sequence[Tensor], weight_b: Tensor | None = None
) -> Tensor:
    """Squared distance of the spatial attention (mean over channels) (b, h_l, w_l), relative to the teacher's energy.

    Source: Woo et al., CBAM, ECCV 2018, eq. 3 (average-pooled branch), without its convolution.
    """
    return _relative([maps.float() for maps in student_bhw], [maps.float() for maps in teacher_bhw], weight_b)


def cbam_attention(channel: Tensor, spatial: Tensor) -> Tensor:
    """Channel and spatial attention losses together, 0.7 to 0.3."""
    return CHANNEL_SHARE * channel + SPATIAL_SHARE * spatial


def cwd(
    student_bchw: Sequence[Tensor],
    teacher_bchw: Sequence[Tensor],
    weight_b: Tensor | None = None,
    temperature: float = CWD_TEMPERATURE,
) -> Tensor:
    """Channel-wise distillation: KL divergence of each channel's softmax over space, mean over channels and levels.

    KL(teacher || student) of the maps divided by `temperature`, times its square. Shu et al., Channel-wise Knowledge
    Distillation for Dense Prediction, ICCV 2021, eq. 3 and 4.
    """
    terms = []
    for student, teacher in zip(student_bchw, teacher_bchw, strict=True):
        log_q = torch.log_softmax(_cells(student) / temperature, dim=1)
        log_p = torch.log_softmax(_cells(teacher) / temperature, dim=1)
        terms.append((log_p.exp() * (log_p - log_q)).sum(dim=1).mean(dim=1))
    return temperature**2 * over_images(torch.stack(terms).mean(dim=0), weight_b)


def pkd(student_bchw: Sequence[Tensor], teacher_bchw: Sequence[Tensor], weight_b: Tensor | None = None) -> Tensor:
    """Half the squared distance of maps that are standardised per channel over batch and space.

    That is 1 minus Pearson's correlation, whatever the scale of the two networks: 0..2. Cao et al., PKD, NeurIPS 2022,
    eq. 4 to 6.
    """
    terms = []
    for student, teacher in zip(student_bchw, teacher_bchw, strict=True):
        difference = _standardised(_cells(student)) - _standardised(_cells(teacher))
        terms.append(0.5 * difference.square().mean(dim=(1, 2)))
    return over_images(torch.stack(terms).mean(dim=0), weight_b)


def mgd(generated_bchw: Sequence[Tensor], teacher_bchw: Sequence[Tensor], weight_b: Tensor | None = None) -> Tensor:
    """Squared distance of what the generators made of masked student maps, relative to the teacher's energy.

    The generators (conv, ReLU, conv) are in `connectors.Connectors`, the masks from `keep_mask`. Yang et al., Masked
    Generative Distillation, ECCV 2022, eq. 3 to 5; there a sum with a weight of 2e-5, here relative.
    """
    pairs = [(_cells(a), _cells(b)) for a, b in zip(generated_bchw, teacher_bchw, strict=True)]
    return _relative([a for a, _ in pairs], [b for _, b in pairs], weight_b)


def keep_mask(maps_bchw: Tensor) -> Tensor:
    """Which cells a generator may see: (b, 1, h, w) of 0 and 1, a share MGD_MASKED of them 0; from torch's generator."""
    batch, _, height, width = maps_bchw.shape
    return (torch.rand(batch, 1, height, width, device=maps_bchw.device) >= MGD_MASKED).to(maps_bchw.dtype)


def score_weighted_l2(
    student_bchw: Sequence[Tensor],
    teacher_bchw: Sequence[Tensor],
    score_bhw: Sequence[Tensor],
    weight_b: Tensor | None = None,
) -> Tensor:
    """Squared distance of the maps, each cell weighted by the teacher's confidence there, relative to its energy there.

    `score_bhw` (b, h_l, w_l) in 0..1. The form that Ultralytics' `distill_model` uses (ultralytics/nn/distill_model.py),
    made relative.
    """
    terms = []
    for student, teacher, score in zip(student_bchw, teacher_bchw, score_bhw, strict=True):
        share = score.float().flatten(1)  # (b, h w)
        target = _cells(teacher)
        distance = (_cells(student) - target).square().mean(dim=2) * share
        energy = (target.square().mean(dim=2) * share).mean().clamp(min=LEAST_ENERGY)
        terms.append(distance.mean(dim=1) / energy)
    return over_images(torch.stack(terms).mean(dim=0), weight_b)


def _cells(maps_bchw: Tensor) -> Tensor:
    """(b, h w, c) in float32: a view of channels_last maps."""
    return maps_bchw.permute(0, 2, 3, 1).flatten(1, 2).float()


def _standardised(cells_bnc: Tensor) -> Tensor:
    centred = cells_bnc - cells_bnc.mean(dim=(0, 1), keepdim=True)
    return centred / (centred.square().mean(dim=(0, 1), keepdim=True) + LEAST_ENERGY).sqrt()


def _relative(student: Sequence[Tensor], teacher: Sequence[Tensor], weight_b: Tensor | None) -> Tensor:
    """Mean square of the difference over the teacher's mean square, levels averaged."""
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        distance = (ours - theirs).square().flatten(1).mean(dim=1)
        terms.append(distance / theirs.square().mean().clamp(min=LEAST_ENERGY))
    return over_images(torch.stack(terms).mean(dim=0), weight_b)
