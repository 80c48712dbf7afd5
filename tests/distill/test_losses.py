"""Response and box losses against slow twins; nothing when student and teacher agree."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torchvision.ops import generalized_box_iou

from nasdistill.distill.losses.box import (
    better_than_student,
    box_regression,
    giou_of_distances,
    label_distances,
    localisation_kl,
)
from nasdistill.distill.losses.response import class_bckd, class_kl, confidence


def some(*shape: int, seed: int = 0, gain: float = 2.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * gain


class TestClassKl:
    """Binary KL divergence with temperature."""

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_against_torch_distributions(self, temperature: float) -> None:
        student, teacher, weight = some(2, 7, 3), some(2, 7, 3, seed=1), torch.rand(2, 7) * 3
        total, weights = 0.0, 0.0
        for image in range(2):
            for anchor in range(7):
                for index in range(3):
                    p = Bernoulli(logits=teacher[image, anchor, index].double() / temperature)
                    q = Bernoulli(logits=student[image, anchor, index].double() / temperature)
                    total += float(kl_divergence(p, q)) * float(weight[image, anchor])
                weights += float(weight[image, anchor])
        expected = temperature**2 * total / max(weights, 1.0)
        assert class_kl(student, teacher, weight, temperature).item() == pytest.approx(expected, rel=1e-4)

    def test_nothing_when_they_agree_and_more_when_they_do_not(self) -> None:
        teacher, weight = some(2, 7, 3), torch.ones(2, 7)
        assert class_kl(teacher, teacher, weight, 3.0).item() == pytest.approx(0.0, abs=1e-6)
        near, far = class_kl(teacher + 0.1, teacher, weight, 3.0), class_kl(teacher + 1.0, teacher, weight, 3.0)
        assert 0 < near < far

    def test_extreme_logits_stay_finite(self) -> None:
        student, teacher = torch.tensor([[[80.0, -80.0]]]), torch.tensor([[[-80.0, 80.0]]])
        student.requires_grad_(True)
        loss = class_kl(student, teacher, torch.ones(1, 1), 1.0)
        loss.backward()
        assert loss.item() == pytest.approx(160.0, rel=1e-3)
        assert torch.isfinite(student.grad).all()

    def test_an_image_that_counts_double_has_twice_the_gradient(self) -> None:
        student, teacher, weight = some(2, 7, 3).requires_grad_(True), some(2, 7, 3, seed=1), torch.rand(2, 7) + 1
        (plain,) = torch.autograd.grad(class_kl(student, teacher, weight, 2.0), student)
        (weighted,) = torch.autograd.grad(class_kl(student, teacher, weight, 2.0, torch.tensor([2.0, 0.0])), student)
        assert torch.allclose(weighted[0], 2 * plain[0]) and not weighted[1].any()

    def test_does_not_depend_on_the_number_of_images(self) -> None:
        student, teacher, weight = some(2, 7, 3), some(2, 7, 3, seed=1), torch.rand(2, 7) + 1
        once = class_kl(student, teacher, weight, 2.0)
        twice = class_kl(student.repeat(2, 1, 1), teacher.repeat(2, 1, 1), weight.repeat(2, 1), 2.0)
        assert once.item() == pytest.approx(twice.item(), rel=1e-5)


class TestBinaryClasses:
    def test_against_the_formula(self) -> None:
        student, teacher, weight = some(2, 7, 3), some(2, 7, 3, seed=1), torch.rand(2, 7) * 3
        total = 0.0
        for ours, theirs in zip(
            student.double().sigmoid().flatten(), teacher.double().sigmoid().flatten(), strict=True
        ):
            p, q = float(ours), float(theirs)
            total -= abs(q - p) * (q * math.log(p) + (1 - q) * math.log(1 - p))
        expected = total / max(float(weight.sum()), 1.0)
        assert class_bckd(student, teacher, weight).item() == pytest.approx(expected, rel=1e-4)

    def test_nothing_when_they_agree(self) -> None:
        teacher = some(2, 7, 3)
        assert class_bckd(teacher, teacher, torch.ones(2, 7)).item() == 0.0

    def test_what_only_the_student_sees_counts(self) -> None:
        nothing, seen = torch.full((1, 4, 2), -12.0), torch.tensor([-12.0, -12.0, -12.0, 2.0]).view(1, 4, 1)
        student = seen.expand(1, 4, 2).clone().requires_grad_(True)
        weight = confidence(nothing)
        (gradient,) = torch.autograd.grad(class_bckd(student, nothing, weight), student)
        assert gradient[0, 3].min() > 0.5 and gradient[0, :3].abs().max() < 1e-3
        assert class_kl(student, nothing, weight, 1.0).item() < 1e-3

    def test_extreme_logits_stay_finite(self) -> None:
        student, teacher = torch.tensor([[[80.0, -80.0]]]), torch.tensor([[[-80.0, 80.0]]])
        student.requires_grad_(True)
        loss = class_bckd(student, teacher, torch.ones(1, 1))
        loss.backward()
        assert loss.item() == pytest.approx(160.0, rel=1e-3)
        assert torch.isfinite(student.grad).all()

    def test_an_image_that_counts_double_has_twice_the_gradient(self) -> None:
        student, teacher, weight = some(2, 7, 3).requires_grad_(True), some(2, 7, 3, seed=1), torch.rand(2, 7) + 1
        (plain,) = torch.autograd.grad(class_bckd(student, teacher, weight), student)
        (weighted,) = torch.autograd.grad(class_bckd(student, teacher, weight, torch.tensor([2.0, 0.0])), student)
        assert torch.allclose(weighted[0], 2 * plain[0]) and not weighted[1].any()

    def test_does_not_depend_on_the_number_of_images(self) -> None:
        student, teacher, weight = some(2, 7, 3), some(2, 7, 3, seed=1), torch.rand(2, 7) + 1
        once = class_bckd(student, teacher, weight)
        twice = class_bckd(student.repeat(2, 1, 1), teacher.repeat(2, 1, 1), weight.repeat(2, 1))
        assert once.item() == pytest.approx(twice.item(), rel=1e-5)


def as_corners(distances_n4: torch.Tensor) -> torch.Tensor:
    return torch.cat([-distances_n4[:, :2], distances_n4[:, 2:]], dim=1)


class TestBoxes:
    """L1 and GIoU, 3 to 1, where the teacher sees something."""

    def test_giou_against_torchvision(self) -> None:
        first, second = some(50, 4).abs() * 2 + 0.05, some(50, 4, seed=1).abs() * 2 + 0.05
        second[:10, 0] = -0.5 * second[:10, 2]  # boxes that do not hold their anchor point
        expected = generalized_box_iou(as_corners(first), as_corners(second)).diagonal()
        assert torch.allclose(giou_of_distances(first, second), expected, atol=1e-5)
        assert expected.min() < 0.2 < expected.max()

    def test_giou_of_boxes_that_do_not_meet_is_negative(self) -> None:
        first, second = torch.tensor([[-1.0, 0.0, 2.0, 1.0]]), torch.tensor([[3.0, 0.0, -2.0, 1.0]])
        expected = generalized_box_iou(as_corners(first), as_corners(second))[0, 0]
        assert giou_of_distances(first, second).item() == pytest.approx(expected.item(), abs=1e-6)
        assert expected < 0

    @pytest.mark.parametrize("image_weight", [None, torch.rand(9, generator=torch.Generator().manual_seed(5)) * 2])
    def test_against_a_loop(self, image_weight: torch.Tensor | None) -> None:
        student, teacher, weight = some(9, 4).abs() + 0.1, some(9, 4, seed=1).abs() + 0.1, torch.rand(9) * 4
        total, weights = 0.0, 0.0
        for box in range(9):
            s, t, share = student[box], teacher[box], float(weight[box])
            l1 = sum(abs(float(a) - float(b)) for a, b in zip(s, t, strict=True)) / 4
            giou = float(generalized_box_iou(as_corners(s[None]), as_corners(t[None])))
            total += share * (3 * l1 + 1 * (1 - giou)) / 4 * (1.0 if image_weight is None else float(image_weight[box]))
            weights += share
        found = box_regression(student, teacher, weight, image_weight)
        assert found.item() == pytest.approx(total / max(1.0, weights), rel=1e-4)

    def test_nothing_when_they_agree(self) -> None:
        boxes = some(9, 4).abs() + 0.1
        assert box_regression(boxes, boxes, torch.ones(9)).item() == pytest.approx(0.0, abs=1e-5)
        assert box_regression(boxes + 0.2, boxes, torch.ones(9)) > 0.01

    def test_without_objects_there_is_no_loss_and_still_a_gradient(self) -> None:
        boxes = some(9, 4).requires_grad_(True)
        none = boxes[torch.zeros(9, dtype=torch.bool)]
        loss = box_regression(none, torch.zeros(0, 4), torch.zeros(0))
        loss = loss + localisation_kl(none.view(0, 4, 1), torch.zeros(0, 4, 1), torch.zeros(0), 2.0)
        loss.backward()
        assert loss.item() == 0.0 and not boxes.grad.any()

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_localisation_against_torch_distributions(self, temperature: float) -> None:
        student, teacher, weight = some(5, 4, 16), some(5, 4, 16, seed=1), torch.rand(5) * 3
        kl = kl_divergence(
            Categorical(logits=teacher.double() / temperature), Categorical(logits=student.double() / temperature)
        ).mean(dim=1)
        expected = temperature**2 * float((kl * weight).sum()) / max(1.0, float(weight.sum()))
        assert localisation_kl(student, teacher, weight, temperature).item() == pytest.approx(expected, rel=1e-4)
        log_p = teacher.log_softmax(dim=2)  # what the cache keeps
        assert localisation_kl(student, log_p, weight, temperature).item() == pytest.approx(expected, rel=1e-4)
        assert localisation_kl(teacher, log_p, weight, temperature).item() == pytest.approx(0.0, abs=1e-5)


def test_confidence_is_the_highest_class() -> None:
    logits = torch.tensor([[[0.0, -3.0], [2.0, 5.0]]])
    assert torch.allclose(confidence(logits), torch.tensor([[0.5, torch.tensor(5.0).sigmoid()]]))


class TestBound:
    """Where the teacher's boxes teach when they must be better than the student's."""

    def test_labels_as_distances(self) -> None:
        """Against the corners, computed one by one; padding is told from labels, whatever their order."""
        boxes = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.25, 0.5, 0.125, 0.25], [0.75, 0.25, 0.5, 0.25]])
        labels = {"batch_idx": torch.tensor([2.0, 0.0, 2.0]), "bboxes": boxes}
        image, point, stride = torch.tensor([2, 0, 1]), torch.tensor([[3.5, 1.5], [0.5, 2.5], [1.5, 1.5]]), 16.0
        found, there = label_distances(labels, 3, image, point, torch.full((3, 1), stride), torch.tensor([128.0, 64.0]))
        assert there.tolist() == [[True, True], [True, False], [False, False]]
        for row, slot, label in ((0, 0, 0), (0, 1, 2), (1, 0, 1)):
            x, y, w, h = (boxes[label] * torch.tensor([128.0, 64.0, 128.0, 64.0])).tolist()
            px, py = (point[row] * stride).tolist()
            corners = [px - (x - w / 2), py - (y - h / 2), x + w / 2 - px, y + h / 2 - py]
            assert (found[row, slot] * stride).tolist() == pytest.approx(corners)

    def test_only_a_better_box_teaches(self) -> None:
        label = torch.tensor([[2.0, 2.0, 2.0, 2.0], [50.0, -46.0, 0.0, 0.0]])[None]  # the second is far away
        near, nearer = torch.tensor([[2.0, 2.0, 2.0, 3.0]]), torch.tensor([[2.0, 2.0, 2.0, 2.4]])
        there = torch.tensor([[True, True]])
        assert better_than_student(near, nearer, label, there).item()
        assert not better_than_student(nearer, near, label, there).item()
        assert not better_than_student(near, near, label, there).item()

    def test_a_box_without_a_label_teaches_nothing(self) -> None:
        teacher, student = torch.ones(1, 4), torch.full((1, 4), 9.0)
        away = torch.tensor([[[-20.0, -20.0, 22.0, 22.0]]])
        assert not better_than_student(student, teacher, away, torch.tensor([[True]])).item()
        assert not better_than_student(student, teacher, torch.ones(1, 1, 4), torch.tensor([[False]])).item()
        assert not better_than_student(student, teacher, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=bool)).item()
        none = {"batch_idx": torch.zeros(0), "bboxes": torch.zeros(0, 4)}
        place = (torch.zeros(1, dtype=torch.long), torch.zeros(1, 2), torch.ones(1, 1), torch.tensor([64.0, 64.0]))
        assert label_distances(none, 1, *place)[0].shape == (1, 0, 4)
