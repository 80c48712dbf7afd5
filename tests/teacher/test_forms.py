"""Every form of targets: no larger than promised, read back as encoded, and the same from the cache as online."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, NAMES, SIZE, small_teacher, training_views

from nasdistill.data.views import Views
from nasdistill.teacher.cache import bytes_per_view
from nasdistill.teacher.detections import (
    LEAST_SCORE,
    MOST_DETECTIONS,
    SURE,
    Detections,
    anchor_points,
    final_detections,
    view_facts,
)
from nasdistill.teacher.forms import (
    SPARSE_SHARE,
    TargetForm,
    TargetShape,
    anchor_count,
    layout_of,
    maps_layout,
    shape_of,
    top_anchors,
)
from nasdistill.teacher.online import OnlineTargets
from nasdistill.teacher.participation import PARTICIPATIONS, participation
from nasdistill.teacher.resample import resample, resample_bins
from nasdistill.teacher.targets import (
    create_maps,
    create_targets,
    fill_targets,
    open_targets,
    seal_maps,
    seal_targets,
)

ORDER = tuple(range(len(NAMES)))
EVERYTHING = TargetForm(bins=True, spatial=True, detections=True, facts=True, maps=True)
SPARSE = TargetForm(sparse=True, bins=True, spatial=True, detections=True, facts=True)
COUNT = 12


@pytest.fixture(scope="module")
def views(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Views:
    return training_views(demo_yaml, tmp_path_factory.mktemp("pool") / "views", COUNT)


# Teachers of DESIGN's sizes: a YOLOv5s of 256 px with few and with 80 classes, and the smallest there is.
SHAPES = {
    "pcb": shape_of(256, (8, 16, 32), (128, 256, 512), 6, 16),
    "coco": shape_of(320, (8, 16, 32), (128, 256, 512), 80, 16),
    "nano": shape_of(256, (8, 16, 32), (64, 128, 256), 3, 16),
    "no bins": shape_of(320, (8, 16, 32), (64, 128, 256), 20, 1),
}


@pytest.mark.parametrize("extra", [TargetForm(), SPARSE], ids=["least", "most"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_sparse_form_takes_at_most_a_twentieth(shape: TargetShape, extra: TargetForm) -> None:
    form = dataclasses.replace(extra, sparse=True)
    full = dataclasses.replace(form, sparse=False)
    whole = bytes_per_view({**layout_of(full, shape), **maps_layout(shape)})
    assert bytes_per_view(layout_of(form, shape)) <= SPARSE_SHARE * whole
    assert 16 <= top_anchors(form, shape) <= 256


def test_only_what_is_asked_for_is_kept() -> None:
    shape = SHAPES["pcb"]
    assert set(layout_of(TargetForm(), shape)) == {"logits", "distances", "attention"}
    assert set(layout_of(EVERYTHING, shape)) == {
        "logits", "distances", "attention", "bins", "spatial", "detections", "facts",
    }  # fmt: skip
    assert set(layout_of(SPARSE, shape)) == set(layout_of(EVERYTHING, shape)) | {"anchors"}
    with pytest.raises(ValueError, match="sparse form keeps no neck maps"):
        TargetForm(sparse=True, maps=True)


@pytest.mark.parametrize("form", [EVERYTHING, SPARSE], ids=["full", "sparse"])
def test_from_the_cache_as_online(tmp_path: Path, views: Views, form: TargetForm) -> None:
    """At the teacher's size and at others: what was kept is what the teacher says, up to float16."""
    teacher = small_teacher()
    sizes = (SIZE, 64, 128)
    folders = {size: tmp_path / str(size) for size in sizes}
    maps = tmp_path / "maps" if form.maps else None
    for size, folder in folders.items():
        ranges = create_targets(folder, teacher, COUNT, size, len(NAMES), form)
    if maps is not None:
        assert create_maps(maps, teacher, COUNT, SIZE) == ranges
    fill_targets(folders, teacher, views, ORDER, ranges, CPU.device, None, form=form, maps=maps)
    assert teacher.forward_passes == 1, "one pass of 12 views serves all sizes and maps"
    if maps is not None:
        seal_maps(maps, "key", teacher)
    indices = np.array([1, 4, 11])
    for size, folder in folders.items():
        seal_targets(folder, "key", teacher)
        cached = open_targets(folder, maps).batch(indices)
        form_now = dataclasses.replace(form, facts=False)
        online = OnlineTargets(teacher, views, ORDER, size, form_now, None).batch(indices)
        anchors = anchor_count(size, (8, 16, 32))
        assert cached.logits_bac.shape[1] == (anchors if not form.sparse else cached.anchors_ba.shape[1])
        for name in ("logits_bac", "distances_ba4", "bins_bar"):
            kept, said = getattr(cached, name), getattr(online, name)
            assert kept.dtype == torch.float32
            assert ((kept - said).abs() <= said.abs() * 2**-10 + 1e-3).all(), name
        assert (cached.anchors_ba is None) == (not form.sparse)
        if form.sparse:
            assert torch.equal(cached.anchors_ba, online.anchors_ba)
        pairs = [(cached.attention, online.attention), (cached.spatial, online.spatial)]
        if form.maps:
            pairs.append((cached.maps, online.maps))
            assert [tuple(level.shape) for level in cached.maps] == [(3, 32, 12, 12), (3, 64, 6, 6), (3, 128, 3, 3)]
        for kept, said in pairs:
            assert all(
                torch.allclose(a.float(), b.float(), rtol=2e-3, atol=2e-3) for a, b in zip(kept, said, strict=True)
            )
        assert [tuple(level.shape[1:]) for level in cached.spatial] == [(size // s, size // s) for s in (8, 16, 32)]
        assert torch.allclose(cached.detections.packed(), online.detections.packed(), atol=2e-3)
        assert set(cached.participation) == set(PARTICIPATIONS)


class TestBins:
    """Distributions over DFL bins at the anchors of another input size."""

    @pytest.mark.parametrize("to_size", [64, 96, 160])
    def test_the_expectation_is_the_resampled_distance(self, to_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        anchors = anchor_count(SIZE, (8, 16, 32))
        # peaked around 3 to 9 cells: far enough from the ends of the 16 bins to be moved and scaled within them
        centre = torch.rand(2, anchors, 4, generator=generator) * 3 + 4
        logits = -2.0 * (torch.arange(16.0) - centre[..., None]).square()
        boxes = logits.permute(0, 2, 3, 1).flatten(1, 2)
        distance = (logits.softmax(dim=3) * torch.arange(16.0)).sum(dim=3)
        _, expected = resample(torch.zeros(2, anchors, 1), distance, SIZE, to_size, (8, 16, 32))
        found = resample_bins(boxes, torch.zeros(2, anchors, 1), 16, SIZE, to_size, (8, 16, 32)).unflatten(2, (4, 16))
        probability = found.exp()
        assert torch.allclose(probability.sum(dim=3), torch.ones_like(expected), atol=1e-3)
        assert torch.allclose((probability * torch.arange(16.0)).sum(dim=3), expected, atol=2e-2)

    def test_at_levels_that_the_teacher_lacks_they_follow_the_boxes(self) -> None:
        """P6 takes them from the anchor of P5 that its logits and box come from, another one for each image."""
        generator = torch.Generator().manual_seed(1)
        anchors = anchor_count(128, (8, 16, 32))
        logits = torch.randn(3, anchors, 2, generator=generator)
        centre = torch.rand(3, anchors, 4, generator=generator) * 3 + 6
        said = -2.0 * (torch.arange(16.0) - centre[..., None]).square()
        distance = (said.softmax(dim=3) * torch.arange(16.0)).sum(dim=3)
        levels = (128, 128, (8, 16, 32), (8, 16, 32, 64))
        _, expected = resample(logits, distance, *levels)
        found = resample_bins(said.permute(0, 2, 3, 1).flatten(1, 2), logits, 16, *levels).unflatten(2, (4, 16)).exp()
        assert found.shape[1] == anchors + 4
        assert torch.allclose((found * torch.arange(16.0)).sum(dim=3), expected, atol=2e-2)

    def test_at_the_same_size_they_are_the_head_s_own(self) -> None:
        boxes = torch.randn(2, 64, anchor_count(SIZE, (8, 16, 32)), generator=torch.Generator().manual_seed(0)) * 2
        found = resample_bins(boxes, torch.zeros(*boxes.shape[::2], 1), 16, SIZE, SIZE, (8, 16, 32)).unflatten(
            2, (4, 16)
        )
        own = boxes.unflatten(1, (4, 16)).permute(0, 3, 1, 2).log_softmax(dim=3)
        assert torch.allclose(found, own.clamp(min=-12.0), atol=1e-6)


class TestDetections:
    """Decoding, suppression and what is counted."""

    @staticmethod
    def raw(
        boxes: list[tuple[float, float, float, float]], scores: list[float], kinds: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A teacher that puts these boxes (corners in pixels of 64) at the anchors 0, 1, 2, …"""
        strides = (8, 16, 32)
        centres, scales = anchor_points(64, strides)
        logits = torch.full((1, len(centres), 3), -20.0)
        distances = torch.ones(1, len(centres), 4)
        for anchor, (box, score, kind) in enumerate(zip(boxes, scores, kinds, strict=True)):
            logits[0, anchor, kind] = float(torch.logit(torch.tensor(score)))
            x, y = (float(v) * 64 for v in centres[anchor])
            cell = float(scales[anchor]) * 64
            distances[0, anchor] = torch.tensor([x - box[0], y - box[1], box[2] - x, box[3] - y]) / cell
        return logits, distances

    def spoken(
        self, boxes: list[tuple[float, float, float, float]], scores: list[float], kinds: list[int]
    ) -> Detections:
        """What NMS makes of it."""
        return final_detections(*self.raw(boxes, scores, kinds), (8, 16, 32), 64, most=4)

    def test_each_image_has_its_own_and_width_is_width(self) -> None:
        parts = [self.raw([(0.0, 8.0, 40.0, 24.0)], [0.9], [2]), self.raw([(16.0, 0.0, 24.0, 48.0)], [0.8], [0])]
        logits, distances = (torch.cat(each) for each in zip(*parts, strict=True))
        found = final_detections(logits, distances, (8, 16, 32), 64, most=4)
        assert found.classes_bd[:, 0].tolist() == [2, 0]
        assert (found.boxes_bd4[0, 0] * 64).tolist() == pytest.approx([20, 16, 40, 16], abs=1e-4)
        assert (found.boxes_bd4[1, 0] * 64).tolist() == pytest.approx([20, 24, 8, 48], abs=1e-4)

    def test_overlapping_boxes_of_a_class_are_suppressed_others_stay(self) -> None:
        same, apart = (0.0, 0.0, 32.0, 32.0), (32.0, 32.0, 64.0, 64.0)
        found = self.spoken([same, (1.0, 0.0, 33.0, 32.0), same, apart], [0.9, 0.8, 0.7, 0.4], [1, 1, 2, 1])
        assert found.scores_bd[0].tolist() == pytest.approx([0.9, 0.7, 0.4, 0.0], abs=1e-5)
        assert found.classes_bd[0].tolist() == [1, 2, 1, 0]
        assert torch.allclose(found.boxes_bd4[0, 0], torch.tensor([0.25, 0.25, 0.5, 0.5]), atol=1e-5)
        assert torch.allclose(found.boxes_bd4[0, 2], torch.tensor([0.75, 0.75, 0.5, 0.5]), atol=1e-5)

    def test_at_most_so_many_and_none_below_the_least_score(self) -> None:
        boxes = [(8.0 * i, 0.0, 8.0 * i + 8.0, 8.0) for i in range(6)]
        found = self.spoken(boxes, [0.3, 0.5, 0.9, 0.6, 0.7, LEAST_SCORE - 0.01], [0] * 6)
        assert found.scores_bd[0].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5], abs=1e-5)
        assert not self.spoken(boxes, [LEAST_SCORE - 0.01] * 6, [0] * 6).scores_bd.any()

    def test_in_a_crowd_every_object_is_found_and_the_teacher_is_not_wrong(self) -> None:
        """64 objects of 32 pixels, side by side, each spoken of by the 16 anchors within it."""
        centres, _ = anchor_points(256, (8,))
        cells = (centres * 8).floor()  # of a grid of 8 x 8 objects
        score = torch.linspace(0.95, 0.3, 64)[(cells[:, 1] * 8 + cells[:, 0]).long()]
        logits = torch.full((1, 1024, 3), -20.0)
        logits[0, :, 1] = torch.logit(score)
        distances = torch.cat([centres * 32 - cells * 4, (cells + 1) * 4 - centres * 32], dim=1)[None]
        found = final_detections(logits, distances, (8,), 256, MOST_DETECTIONS)
        assert int((found.scores_bd > 0).sum()) == 64
        truth = np.array([[1, (x + 0.5) / 8, (y + 0.5) / 8, 1 / 8, 1 / 8] for y in range(8) for x in range(8)], "f4")
        assert view_facts(logits, found, [truth])[0, 1:].tolist() == [64.0, 0.0]

    def test_facts_of_a_view(self) -> None:
        first, second = (0.0, 0.0, 32.0, 32.0), (32.0, 32.0, 64.0, 64.0)
        found = self.spoken([first, second], [0.9, SURE - 0.01], [1, 1])
        logits = torch.tensor([[[0.0, -20.0, -20.0], [-20.0, -20.0, -20.0]]])
        right = np.array([[1, 0.25, 0.25, 0.5, 0.5]], "f4")
        other_class = np.array([[2, 0.25, 0.25, 0.5, 0.5]], "f4")
        both = np.concatenate([right, np.array([[1, 0.75, 0.75, 0.5, 0.5]], "f4")])
        nothing = np.zeros((0, 5), "f4")
        errors = [float(view_facts(logits, found, [rows])[0, 2]) for rows in (right, other_class, both, nothing)]
        assert errors == pytest.approx([0.0, 1.0, 1 / 3, 1.0])
        entropy, objects, _ = view_facts(logits, found, [right])[0].tolist()
        assert entropy == pytest.approx(np.log(2)) and objects == 1.0  # of the one anchor that says something

    def test_anchor_points_are_ultralytics_own(self) -> None:
        from ultralytics.utils.tal import make_anchors

        maps = [torch.zeros(1, 1, 96 // s, 96 // s) for s in (8, 16, 32)]
        points, strides = make_anchors(maps, torch.tensor([8.0, 16.0, 32.0]), 0.5)
        centres, scales = anchor_points(96, (8, 16, 32))
        assert torch.allclose(centres * 96, points * strides, atol=1e-4)
        assert torch.allclose(scales * 96, strides, atol=1e-4)


class TestParticipation:
    """Weights of views with mean 1."""

    FACTS = np.array([[0.1, 1, 0.0], [0.5, 10, 0.0], [0.3, 5, 1.0], [0.3, 5, 0.5]], "f4")

    @pytest.mark.parametrize("mode", PARTICIPATIONS)
    def test_mean_one_and_never_nothing(self, mode: str) -> None:
        weights = participation(self.FACTS, mode)
        assert weights.mean() == pytest.approx(1.0) and (weights > 0).all()

    def test_rich_views_count_for_more_and_wrong_ones_for_less(self) -> None:
        complexity, error, both = (participation(self.FACTS, mode) for mode in ("complexity", "error", "both"))
        assert complexity[0] < complexity[2] == complexity[3] < complexity[1]
        assert error[0] == error[1] > error[3] > error[2]
        assert both[1] == max(both) and both[2] == min(both)

    @pytest.mark.parametrize("mode", PARTICIPATIONS)
    def test_views_that_are_alike_count_alike(self, mode: str) -> None:
        assert participation(np.tile(self.FACTS[3], (5, 1)), mode).tolist() == pytest.approx([1.0] * 5)
