"""In which form targets are kept: which arrays, of which size. Only what the losses of a search read is kept.

The full form has the teacher's answer at every anchor point and, for losses between neck maps, the maps; the sparse form
has the anchors where the teacher is most confident, as many as fit into a twentieth of the full form's bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nasdistill.teacher.cache import Layout, bytes_per_view

SPARSE_SHARE = 0.05
MOST_TOP_ANCHORS, FEWEST_TOP_ANCHORS = 256, 16
DETECTIONS = 100  # of a view, the best: as many as COCO scores
DETECTION_FIELDS = 6  # centre x and y, width, height (0..1), score, class
FACTS = 3  # entropy of the scores, objects, error on the labels


@dataclass(frozen=True)
class TargetForm:
    """What is kept: always logits, distances and channel attention; more where a loss reads it.

    Answers are kept at the anchor points of the first `levels` pyramid levels (3 to 5: P5 to P7 are the coarsest); the
    other arrays are of the teacher's neck or of whole views, and the same for any number of levels.
    sparse: only the top anchors. bins: the distributions over DFL bins. spatial: spatial attention. detections: after
    NMS. facts: what dynamic participation weighs images by. maps: the neck maps (full form only).
    """

    sparse: bool = False
    bins: bool = False
    spatial: bool = False
    detections: bool = False
    facts: bool = False
    maps: bool = False
    levels: int = 3

    def __post_init__(self) -> None:
        if self.sparse and self.maps:
            raise ValueError("the sparse form keeps no neck maps")


@dataclass(frozen=True)
class TargetShape:
    """The numbers that sizes follow from: cells of each level of the student's input, the teacher's channels and head.

    Neck maps are those of the first levels, as many as there are `channels`.
    """

    cells: tuple[int, ...]
    channels: tuple[int, ...]
    classes: int
    reg_max: int

    @property
    def anchors(self) -> int:
        """Anchor points: one for each cell of each level."""
        return sum(self.cells)

    @property
    def map_cells(self) -> tuple[int, ...]:
        """Cells of the levels that have neck maps."""
        return self.cells[: len(self.channels)]


def cells_along(size: int, stride: int) -> int:
    """Cells along one side of a square input of `size` pixels; the last one may reach beyond it."""
    return -(-size // stride)  # stride-2 convolutions with padding round up


def anchor_count(size: int, strides: Sequence[int]) -> int:
    """Anchor points of a square input: one for each cell of each level."""
    return sum(cells_along(size, stride) ** 2 for stride in strides)


def shape_of(size: int, strides: Sequence[int], channels: Sequence[int], classes: int, reg_max: int) -> TargetShape:
    """The shape of targets for square inputs of `size` pixels at levels with these strides."""
    cells = tuple(cells_along(size, stride) ** 2 for stride in strides)
    return TargetShape(cells, tuple(channels), classes, reg_max)


def layout_of(form: TargetForm, shape: TargetShape) -> Layout:
    """The arrays of a form, without the neck maps, which lie apart because all input sizes share them."""
    kept = top_anchors(form, shape) if form.sparse else shape.anchors
    return {**_responses(form, shape, kept), **_small(form, shape)}


def maps_layout(shape: TargetShape) -> Layout:
    """The neck maps, channels last, all levels in one row."""
    return {"maps": ((sum(c * n for c, n in zip(shape.channels, shape.map_cells, strict=True)),), "<f2")}


def top_anchors(form: TargetForm, shape: TargetShape) -> int:
    """How many anchors the sparse form keeps, so that it takes at most SPARSE_SHARE of the full form's bytes."""
    full = bytes_per_view({**layout_of(replace(form, sparse=False), shape), **maps_layout(shape)})
    room = SPARSE_SHARE * full - bytes_per_view(_small(form, shape))
    each = bytes_per_view(_responses(form, shape, 1))
    most = min(MOST_TOP_ANCHORS, shape.anchors)
    return max(min(FEWEST_TOP_ANCHORS, most), min(most, int(room // each)))


def _responses(form: TargetForm, shape: TargetShape, kept: int) -> dict[str, tuple[tuple[int, ...], str]]:
    arrays: dict[str, tuple[tuple[int, ...], str]] = {
        "logits": ((kept, shape.classes), "<f2"),
        "distances": ((kept, 4), "<f2"),
    }
    if form.bins:
        arrays["bins"] = ((kept, 4 * shape.reg_max), "<f2")
    if form.sparse:
        arrays["anchors"] = ((kept,), "<u2" if shape.anchors < 1 << 16 else "<u4")
    return arrays


def _small(form: TargetForm, shape: TargetShape) -> Mapping[str, tuple[tuple[int, ...], str]]:
    arrays: dict[str, tuple[tuple[int, ...], str]] = {
        "attention": ((sum(shape.channels),), "<f2" if form.sparse else "<f4")
    }
    if form.spatial:
        arrays["spatial"] = ((sum(shape.map_cells),), "<f2")
    if form.detections:
        arrays["detections"] = ((DETECTIONS, DETECTION_FIELDS), "<f2")
    if form.facts:
        arrays["facts"] = ((FACTS,), "<f4")
    return arrays
