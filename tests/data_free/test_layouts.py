"""What is asked for in an image."""

import numpy as np
import pytest
import torch

from nasdistill.data_free.layouts import LARGEST, LONGEST, MOST_OBJECTS, Layouts, draw_layouts


def test_boxes_lie_within_the_image_and_hardly_overlap() -> None:
    layouts = draw_layouts(50, 6, np.random.default_rng(0))
    low, high = (
        layouts.boxes_n4[:, :2] - layouts.boxes_n4[:, 2:] / 2,
        layouts.boxes_n4[:, :2] + layouts.boxes_n4[:, 2:] / 2,
    )
    assert (low >= -1e-6).all() and (high <= 1 + 1e-6).all()
    counts = torch.bincount(layouts.image_n, minlength=50)
    assert counts.min() >= 1 and counts.max() <= MOST_OBJECTS
    assert set(layouts.classes_n.tolist()) == set(range(6))
    sides = layouts.boxes_n4[:, 2:]
    assert sides.max() <= LARGEST * LONGEST**0.5 + 1e-6
    assert sides.min() < 0.05 and sides.max() > 0.3, "sizes are spread wide"
    for image in range(50):
        own = layouts.image_n == image
        for first, second in zip(*np.triu_indices(int(own.sum()), 1), strict=True):
            overlap = torch.minimum(high[own][first], high[own][second]) - torch.maximum(
                low[own][first], low[own][second]
            )
            smaller = min(sides[own][first].prod(), sides[own][second].prod())
            assert overlap.clamp(min=0).prod() <= 0.1 * smaller + 1e-6


def test_most_sizes_are_those_that_are_known() -> None:
    known = np.array([[0.2, 0.1]])
    sides = draw_layouts(100, 3, np.random.default_rng(1), known).boxes_n4[:, 2:].double()
    near = ((sides / torch.from_numpy(known)) - 1).abs().amax(dim=1) <= 0.2 + 1e-6
    assert 0.65 < near.float().mean() < 0.9
    assert torch.equal(
        draw_layouts(4, 3, np.random.default_rng(2)).boxes_n4, draw_layouts(4, 3, np.random.default_rng(2)).boxes_n4
    )


def test_a_layout_moves_with_its_image() -> None:
    layouts = Layouts(
        torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.9, 0.5, 0.2, 0.4]])
    )
    moved = layouts.moved(0.05, -0.1, mirrored=False).boxes_n4
    assert moved[0].tolist() == pytest.approx([0.55, 0.4, 0.2, 0.2])
    assert moved[1].tolist() == pytest.approx([0.925, 0.4, 0.15, 0.4]), "what leaves the image is cut off"
    assert layouts.moved(0.05, 0.0, mirrored=True).boxes_n4[0].tolist() == pytest.approx([0.45, 0.5, 0.2, 0.2])
