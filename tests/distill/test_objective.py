"""The parts put together for one student: nothing to learn from oneself, gradients where they belong, every choice."""

import copy
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from small import NAMES, SIZE, images_of, opinionated, small_teacher, tiny_student
from ultralytics.utils.tal import make_anchors

from nasdistill.distill.connectors import Connectors
from nasdistill.distill.losses import feature
from nasdistill.distill.losses.box import FOREGROUND, box_regression, localisation_kl
from nasdistill.distill.losses.detections import ScoredAssigner
from nasdistill.distill.losses.response import class_bckd, class_kl, confidence
from nasdistill.distill.objective import GAINS, DistillationLoss, LossChoice, LossWeights
from nasdistill.records import BoxLoss, ClsLoss, FeatureLoss
from nasdistill.students.student import Student, in_float32
from nasdistill.teacher.detections import Detections
from nasdistill.teacher.encoding import SILENT, TargetBatch
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.online import targets_of
from nasdistill.teacher.teacher import RawOutput, Teacher, raw_output


@pytest.fixture
def student() -> Student:
    student = tiny_student()
    opinionated(student.model)
    student.model.train()
    return student


@pytest.fixture
def labels() -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.3, 0.5]])
    return {"batch_idx": torch.tensor([0.0, 1.0]), "cls": torch.tensor([[2.0], [4.0]]), "bboxes": boxes}


EVERYTHING = TargetForm(bins=True, spatial=True, detections=True, maps=True)


def same_as(student: Student, output: dict, form: TargetForm = EVERYTHING) -> TargetBatch:
    """Targets that say exactly what a student's output says."""
    raw = raw_output(output, student.head.reg_max)
    raw = RawOutput(
        *(getattr(raw, name).detach() for name in ("logits_bac", "distances_ba4")),
        [maps.detach() for maps in raw.features],
        raw.boxes_bra.detach(),
    )
    twin = Teacher(copy.deepcopy(student.model), NAMES, "twin", "", SIZE)
    return targets_of(raw, twin, SIZE, SIZE, form, len(NAMES), [np.zeros((0, 5), "f4")] * len(raw.logits_bac))


def identity(student: Student) -> Connectors:
    connectors = Connectors(student.pyramid_channels, student.pyramid_channels)
    for level in connectors.levels:
        torch.nn.init.dirac_(level.weight)
        torch.nn.init.zeros_(level.bias)
    return connectors


def test_a_student_that_is_its_teacher_has_nothing_to_learn(student: Student, labels: dict) -> None:
    output = student.model(images_of(size=96))
    targets = same_as(student, output)
    assert (confidence(targets.logits_bac) > FOREGROUND).any()
    criterion = DistillationLoss(student, identity(student))
    parts = criterion(output, targets, labels, LossWeights(), temperature=3.0)
    assert set(parts) == {"feature", "cls", "box", "total"}
    assert all(part.item() == pytest.approx(0.0, abs=1e-4) for part in parts.values())
    other = student.model(images_of(9, size=96))
    parts = criterion(other, targets, labels, LossWeights(), temperature=3.0)
    assert all(part.item() > 0.01 for part in parts.values())


def test_gradients_reach_student_and_connectors_and_never_the_teacher(student: Student, labels: dict) -> None:
    teacher, images = small_teacher(), images_of(size=96)
    raw = teacher(images, range(6))
    targets = targets_of(raw, teacher, SIZE, SIZE, TargetForm(), len(NAMES), [])
    connectors = Connectors(student.pyramid_channels, teacher.channels)
    criterion = DistillationLoss(student, connectors)
    criterion(student.model(images), targets, labels, LossWeights(), temperature=2.0)["total"].backward()
    student.head.dfl.requires_grad_(False)
    for module in (student.model, connectors):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_the_total_is_the_weighted_sum_and_zero_leaves_a_part_out(student: Student, labels: dict) -> None:
    targets = same_as(student, student.model(images_of(9, size=96)))
    output = student.model(images_of(size=96))
    criterion = DistillationLoss(student, identity(student))
    weights = LossWeights(feature=0.5, cls=2.0, box=0.25, label=0.3)
    parts = criterion(output, targets, labels, weights, temperature=2.0)
    expected = sum(
        GAINS.get(name, 1.0) * getattr(weights, name) * parts[name].item()
        for name in ("feature", "cls", "box", "label")
    )
    assert parts["total"].item() == pytest.approx(expected, rel=1e-5)
    fewer = criterion(output, targets, labels, LossWeights(feature=0.0, cls=1.0, box=0.0), temperature=2.0)
    assert set(fewer) == {"cls", "total"}


def test_labels_alone_is_ultralytics_own_loss_per_image(student: Student, labels: dict) -> None:
    images = images_of(size=96)
    output = student.model(images)
    criterion = DistillationLoss(student, identity(student))
    parts = criterion(output, None, labels, LossWeights(label=1.0), temperature=2.0)
    assert set(parts) == {"label", "total"}
    own = student.model.loss({"img": images, **labels}, preds=output)[0].sum() / len(images)
    assert parts["label"].item() == pytest.approx(own.item(), rel=1e-5)


def test_images_without_labels_train_too(student: Student) -> None:
    nothing = {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    criterion = DistillationLoss(student, identity(student))
    parts = criterion(student.model(images_of()), None, nothing, LossWeights(label=1.0), temperature=2.0)
    parts["total"].backward()
    assert math.isfinite(parts["total"].item()) and parts["total"] > 0


@pytest.mark.parametrize("kind", get_args(FeatureLoss))
def test_every_feature_loss_compares_the_connected_maps(student: Student, labels: dict, kind: str) -> None:
    output = student.model(images_of(size=SIZE))
    own, other = same_as(student, output), same_as(student, student.model(images_of(9, size=SIZE)))
    connectors = identity(student) if kind != "mgd" else Connectors((16, 32, 64), (16, 32, 64), generators=True)
    criterion = DistillationLoss(student, connectors, LossChoice(feature=kind))
    only = LossWeights(feature=1.0, cls=0.0, box=0.0)
    far = criterion(output, other, labels, only, temperature=2.0)["feature"]
    near = criterion(output, own, labels, only, temperature=2.0)["feature"]
    assert far > 0.01
    if kind != "mgd":  # its generators cannot see all
        assert near.item() == pytest.approx(0.0, abs=1e-4)
    far.backward()
    trained = list(connectors.parameters())
    if kind in ("cwd", "pkd"):  # softmax and standardisation take a channel's constant away
        trained = [level.weight for level in connectors.levels]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)
    assert student.model.model[0].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", get_args(BoxLoss))
def test_every_box_loss(student: Student, labels: dict, kind: str) -> None:
    output = student.model(images_of(size=SIZE))
    own, other = same_as(student, output), same_as(student, student.model(images_of(9, size=SIZE)))
    criterion = DistillationLoss(student, identity(student), LossChoice(box=kind))
    only = LossWeights(feature=0.0, cls=0.0, box=1.0)
    assert criterion(output, own, labels, only, temperature=2.0)["box"].item() == pytest.approx(0.0, abs=1e-4)
    far = criterion(output, other, labels, only, temperature=2.0)["box"]
    far.backward()
    assert far > 0.01 and all(branch[-1].weight.grad.abs().sum() > 0 for branch in student.head.cv2)


@pytest.mark.parametrize("kind", get_args(BoxLoss))
def test_a_student_closer_to_the_labels_is_not_drawn_back(student: Student, kind: str) -> None:
    """One anchor, its label the student's own box: no teacher is better. Its label the teacher's box: the teacher is."""
    output = student.model(images_of(size=SIZE))
    own, other = same_as(student, output), same_as(student, student.model(images_of(9, size=SIZE)))
    anchor = int(confidence(other.logits_bac)[0].argmax())
    logits = torch.full_like(other.logits_bac, SILENT)
    logits[0, anchor] = 3.0
    points, strides = make_anchors(output["feats"], student.head.stride, 0.5)
    only = LossWeights(feature=0.0, cls=0.0, box=1.0)

    def loss(where: str, truth: TargetBatch) -> float:
        left_top, right_bottom = truth.distances_ba4[0, anchor].split(2)
        box = torch.cat([points[anchor] + (right_bottom - left_top) / 2, left_top + right_bottom]) * strides[anchor]
        labels = {"batch_idx": torch.zeros(1), "cls": torch.zeros(1, 1), "bboxes": box[None] / SIZE}
        criterion = DistillationLoss(student, identity(student), LossChoice(box=kind, box_where=where))
        return criterion(output, replace(other, logits_bac=logits), labels, only, temperature=2.0)["box"].item()

    assert loss("better", own) == 0.0 < loss("everywhere", own)
    assert loss("better", other) == loss("everywhere", other)


def test_each_choice_is_the_function_of_its_name(student: Student, labels: dict) -> None:
    output = student.model(images_of(size=SIZE))
    other = same_as(student, student.model(images_of(9, size=SIZE)))
    feats, scored = list(output["feats"]), confidence(other.logits_bac)
    logits, ours = output["scores"].permute(0, 2, 1), raw_output(output, student.head.reg_max)
    cells = [maps.shape[2:] for maps in feats]
    parts = scored.split([height * width for height, width in cells], dim=1)
    score = [part.view(2, *shape) for part, shape in zip(parts, cells, strict=True)]
    channel = feature.channel_attention(feats, other.attention)
    spatial = feature.spatial_attention([maps.mean(dim=1) for maps in feats], other.spatial)
    there = scored > FOREGROUND
    bins = ours.boxes_bra.permute(0, 2, 1)[there].view(-1, 4, student.head.reg_max)
    l1 = box_regression(ours.distances_ba4[there], other.distances_ba4[there], scored[there])
    ld = 0.25 * localisation_kl(bins, other.bins_bar[there].view_as(bins), scored[there], 2.0)
    functions = {
        "feature": {
            "channel_attention": channel,
            "cbam": 0.7 * channel + 0.3 * spatial,
            "cwd": feature.cwd(feats, other.maps),
            "pkd": feature.pkd(feats, other.maps),
            "score_weighted": feature.score_weighted_l2(feats, other.maps, score),
        },
        "cls": {
            "kl": class_kl(logits, other.logits_bac, scored, 2.0),
            "bckd": class_bckd(logits, other.logits_bac, scored),
        },
        "box": {"l1_giou": l1, "ld": ld, "l1_giou_ld": l1 + ld},
    }
    for part, kinds in functions.items():
        for kind, expected in kinds.items():
            criterion = DistillationLoss(student, identity(student), LossChoice(**{part: kind}))
            found = criterion(output, other, labels, LossWeights(), 2.0)[part]
            assert found.item() == pytest.approx(expected.item(), rel=1e-4), kind


class TestDetections:
    """The teacher's final detections in the place of labels."""

    ONLY = LossWeights(feature=0.0, cls=0.0, box=0.0, detections=1.0)

    @staticmethod
    def said(labels: dict, scores: tuple[float, float]) -> Detections:
        """The labels of the fixture as detections: one an image, and an empty slot."""
        boxes, kinds = torch.zeros(2, 2, 4), torch.zeros(2, 2, dtype=torch.long)
        boxes[:, 0], kinds[:, 0] = labels["bboxes"], labels["cls"][:, 0].long()
        return Detections(boxes, torch.tensor([[scores[0], 0.0], [scores[1], 0.0]]), kinds)

    def loss(
        self, student: Student, labels: dict, scores: tuple[float, float], weight: torch.Tensor | None
    ) -> torch.Tensor:
        output = student.model(images_of(size=SIZE))
        targets = replace(same_as(student, output), detections=self.said(labels, scores))
        choice = LossChoice()
        if weight is not None:
            choice, targets = LossChoice(participation="error"), replace(targets, participation={"error": weight})
        criterion = DistillationLoss(student, identity(student), choice)
        return criterion(output, targets, labels, self.ONLY, temperature=2.0)["detections"]

    def test_sure_detections_are_labels(self, student: Student, labels: dict) -> None:
        output = student.model(images_of(size=SIZE))
        criterion = DistillationLoss(student, identity(student))
        as_labels = criterion(output, None, labels, LossWeights(label=1.0), temperature=2.0)["label"]
        assert self.loss(student, labels, (1.0, 1.0), None).item() == pytest.approx(as_labels.item(), rel=1e-4)

    def test_doubtful_ones_teach_less(self, student: Student, labels: dict) -> None:
        """Class targets are the scores: the student's highest answer at the assigned anchors is drawn towards them."""
        assigned = {}
        for score in (1.0, 0.4):
            assigner = ScoredAssigner(student.model.init_criterion().assigner)
            assigner.scores_bd = torch.tensor([[score]])
            generator = torch.Generator().manual_seed(0)
            points = torch.stack(torch.meshgrid(torch.arange(4, 96, 8.0), torch.arange(4, 96, 8.0), indexing="xy"), -1)
            points = points.flatten(0, 1)
            boxes = torch.cat([points - 20, points + 20], dim=1)[None]
            truth = torch.tensor([[[20.0, 20.0, 60.0, 60.0]]])
            probabilities = torch.rand(1, 144, 6, generator=generator)
            found = assigner(probabilities, boxes, points, torch.tensor([[[2.0]]]), truth, torch.ones(1, 1, 1))
            assigned[score] = found[2]
        assert assigned[1.0].max() > 0.5
        assert torch.allclose(assigned[0.4], 0.4 * assigned[1.0])

    def test_every_detection_keeps_its_own_score(self, student: Student, labels: dict) -> None:
        output = student.model(images_of(size=SIZE))
        boxes = torch.tensor([[0.3, 0.3, 0.4, 0.3], [0.7, 0.6, 0.3, 0.5]]).repeat(2, 1, 1)
        kinds, scores = torch.tensor([[2, 4]] * 2), torch.tensor([[0.9, 0.3]] * 2)

        def loss(boxes_bd4: torch.Tensor, scores_bd: torch.Tensor, classes_bd: torch.Tensor) -> float:
            targets = replace(same_as(student, output), detections=Detections(boxes_bd4, scores_bd, classes_bd))
            criterion = DistillationLoss(student, identity(student))
            return criterion(output, targets, labels, self.ONLY, temperature=2.0)["detections"].item()

        first = loss(boxes, scores, kinds)
        assert loss(boxes.flip(1), scores.flip(1), kinds.flip(1)) == pytest.approx(first, rel=1e-4)
        assert loss(boxes, scores.flip(1), kinds) != pytest.approx(first, rel=1e-3)

    def test_an_image_without_detections_is_background(self, student: Student, labels: dict) -> None:
        loss = self.loss(student, labels, (0.0, 0.0), None)
        loss.backward()
        assert loss > 0 and all(branch[-1].weight.grad.abs().sum() > 0 for branch in student.head.cv3)
        assert not any(
            branch[-1].weight.grad is not None and branch[-1].weight.grad.any() for branch in student.head.cv2
        )

    def test_a_teacher_that_counts_for_nothing_says_nothing(self, student: Student, labels: dict) -> None:
        assert self.loss(student, labels, (1.0, 1.0), torch.tensor([0.0, 0.0])).item() == 0.0
        plain, twice = (
            self.loss(student, labels, (0.7, 0.4), weight).item() for weight in (None, torch.tensor([2.0, 2.0]))
        )
        assert twice == pytest.approx(2.0 * plain, rel=1e-5)


@pytest.mark.parametrize("cls", ["kl", "bckd"])
def test_sparse_targets_speak_about_their_anchors_alone(student: Student, labels: dict, cls: ClsLoss) -> None:
    output = student.model(images_of(size=SIZE))
    opinion = student.model(images_of(9, size=SIZE))
    full = same_as(student, opinion)
    sparse = same_as(student, opinion, TargetForm(sparse=True, bins=True, spatial=True, detections=True))
    anchors = sparse.anchors_ba
    assert anchors.shape[1] < full.logits_bac.shape[1]
    for image in range(2):
        assert torch.equal(sparse.logits_bac[image], full.logits_bac[image, anchors[image]])
        assert torch.equal(sparse.distances_ba4[image], full.distances_ba4[image, anchors[image]])
        assert torch.equal(sparse.bins_bar[image], full.bins_bar[image, anchors[image]])
        best = confidence(full.logits_bac)[image].topk(anchors.shape[1]).indices
        assert set(best.tolist()) == set(anchors[image].tolist())
    # the same losses as the full targets with all other anchors struck out
    quiet = torch.full_like(full.logits_bac, -30.0)
    struck = replace(full, logits_bac=quiet.scatter(1, anchors[..., None].expand(-1, -1, 6), sparse.logits_bac))
    criterion = DistillationLoss(student, identity(student), LossChoice(box="l1_giou_ld", cls=cls))
    weights = LossWeights(feature=0.0, cls=1.0, box=1.0)
    ours, theirs = (criterion(output, targets, labels, weights, temperature=2.0) for targets in (sparse, struck))
    for name in ("cls", "box"):
        assert ours[name].item() == pytest.approx(theirs[name].item(), rel=1e-4)


def test_the_teachers_share_scales_all_but_the_labels(student: Student, labels: dict) -> None:
    output = student.model(images_of(size=SIZE))
    targets = same_as(student, student.model(images_of(9, size=SIZE)))
    criterion = DistillationLoss(student, identity(student))
    weights = LossWeights(label=0.3)
    whole, half, none = (criterion(output, targets, labels, weights, 2.0, share) for share in (1.0, 0.5, 0.0))
    label = 0.3 * whole["label"].item()
    assert half["total"].item() - label == pytest.approx((whole["total"].item() - label) / 2, rel=1e-4)
    assert set(none) == {"label", "total"} and none["total"].item() == pytest.approx(label, rel=1e-5)
    alone = criterion(output, targets, labels, LossWeights(), 2.0, 0.0)["total"]
    alone.backward()  # nothing to learn from: no loss, and still a step
    assert alone.item() == 0.0


def test_participation_scales_an_images_gradient(student: Student, labels: dict) -> None:
    targets = replace(
        same_as(student, student.model(images_of(9, size=SIZE))),
        detections=TestDetections.said(labels, (0.9, 0.9)),
        participation={"both": torch.tensor([0.0, 2.0])},
    )
    images = images_of(size=SIZE).requires_grad_(True)
    student.model.eval()  # in training mode BatchNorm ties the images of a batch together
    output = student.model(images)[1]
    criterion = DistillationLoss(student, identity(student), LossChoice(box="l1_giou_ld", participation="both"))
    criterion(output, targets, labels, LossWeights(detections=1.0), 2.0)["total"].backward()
    assert not images.grad[0].any() and images.grad[1].any()


def test_anchor_points_of_large_images_are_exact_in_bfloat16() -> None:
    """Cell 128 has its middle at 128.5, which bfloat16 has not."""
    feats = [torch.zeros(1, 8, 160, 160, dtype=torch.bfloat16)]
    output = in_float32({"boxes": torch.zeros(1, 4, 25600), "scores": torch.zeros(1, 2, 25600), "feats": feats})
    points, _ = make_anchors(output["feats"], torch.tensor([8.0]), 0.5)
    assert points.dtype == torch.float32 and sorted(set(points[:, 0].tolist())) == [cell + 0.5 for cell in range(160)]
