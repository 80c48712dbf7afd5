"""How multipliers become numbers of channels and of blocks, and shares to prune: students equal then are one student."""

from __future__ import annotations

import math

CHANNEL_MULTIPLE = 8
"""Channels are rounded up to multiples of this; less than half of one is none at all."""


def channels_of(full: int, multiplier: float) -> int:
    """`full` channels times `multiplier`, rounded up to a multiple of CHANNEL_MULTIPLE as Ultralytics does.

    Raises:
        ValueError: that is less than half a multiple, so it rounds to none at all.
    """
    wanted = full * multiplier
    if wanted < CHANNEL_MULTIPLE / 2:
        raise ValueError(
            f"{full} channels x {multiplier:g} = {wanted:g} round to zero (a multiple of {CHANNEL_MULTIPLE})"
        )
    return math.ceil(wanted / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def repeats_of(full: int, depth: float) -> int:
    """How many blocks of `full` a model of that depth has, as Ultralytics rounds: one block stays one."""
    return max(round(full * depth), 1) if full > 1 else full


def pruning_factors(early: float, backbone: float, neck: float, head: float) -> dict[str, float]:
    """What a pruning ratio is multiplied by in each stage, by name: the backbone's first layers have its factor too."""
    return {"early": early * backbone, "backbone": backbone, "neck": neck, "head": head}
