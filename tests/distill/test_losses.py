"""Each loss against a slow twin; nothing when student and teacher agree; gradients where they belong."""

import math

import pytest
import torch
from small import images_of, opinionated, small_teacher, tiny_student
from torch.distributions import Bernoulli, kl_divergence
from torchvision.ops import generalized_box_iou

from nasdistill.distill.connectors import Connectors
from nasdistill.distill.losses import (
    FOREGROUND,
    box_regression,
    channel_attention,
    class_kl,
    confidence,
    giou_of_distances,
)
from nasdistill.distill.objective import GAINS, DistillationLoss, LossWeights
from nasdistill.distill.temperature import SCHEDULES, temperature_at
from nasdistill.students.student import Student
from nasdistill.teacher.targets import TargetBatch
from nasdistill.teacher.teacher import raw_output


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

    def test_does_not_depend_on_the_number_of_images(self) -> None:
        student, teacher, weight = some(2, 7, 3), some(2, 7, 3, seed=1), torch.rand(2, 7) + 1
        once = class_kl(student, teacher, weight, 2.0)
        twice = class_kl(student.repeat(2, 1, 1), teacher.repeat(2, 1, 1), weight.repeat(2, 1), 2.0)
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

    def test_against_a_loop(self) -> None:
        student, teacher, weight = some(2, 9, 4).abs() + 0.1, some(2, 9, 4, seed=1).abs() + 0.1, torch.rand(2, 9) * 4
        weight[0, :4] = FOREGROUND / 2
        total, weights = 0.0, 0.0
        for image in range(2):
            for anchor in range(9):
                share = float(weight[image, anchor])
                if share <= FOREGROUND:
                    continue
                s, t = student[image, anchor], teacher[image, anchor]
                l1 = sum(abs(float(a) - float(b)) for a, b in zip(s, t, strict=True)) / 4
                giou = float(generalized_box_iou(as_corners(s[None]), as_corners(t[None])))
                total += share * (3 * l1 + 1 * (1 - giou)) / 4
                weights += share
        assert box_regression(student, teacher, weight).item() == pytest.approx(total / max(1.0, weights), rel=1e-4)

    def test_nothing_when_they_agree(self) -> None:
        boxes = some(2, 9, 4).abs() + 0.1
        assert box_regression(boxes, boxes, torch.ones(2, 9)).item() == pytest.approx(0.0, abs=1e-5)
        assert box_regression(boxes + 0.2, boxes, torch.ones(2, 9)) > 0.01

    def test_background_says_nothing_and_still_has_a_gradient(self) -> None:
        boxes = some(2, 9, 4).requires_grad_(True)
        loss = box_regression(boxes, some(2, 9, 4, seed=1), torch.full((2, 9), FOREGROUND))
        loss.backward()
        assert loss.item() == 0.0 and not boxes.grad.any()


class TestChannelAttention:
    """Mean over space, relative to the teacher's energy."""

    def test_against_a_loop(self) -> None:
        maps, targets = [some(2, 3, 4, 4), some(2, 5, 2, 2)], [some(2, 3, seed=1), some(2, 5, seed=2)]
        levels = []
        for map_bchw, target_bc in zip(maps, targets, strict=True):
            squares, energy = [], []
            for image in range(2):
                for channel in range(map_bchw.shape[1]):
                    mean = sum(map_bchw[image, channel].flatten().tolist()) / map_bchw[image, channel].numel()
                    squares.append((mean - float(target_bc[image, channel])) ** 2)
                    energy.append(float(target_bc[image, channel]) ** 2)
            levels.append(sum(squares) / sum(energy))
        assert channel_attention(maps, targets).item() == pytest.approx(sum(levels) / 2, rel=1e-5)

    def test_nothing_when_they_agree_and_the_same_for_teachers_of_any_scale(self) -> None:
        maps, target = [some(2, 3, 4, 4)], [some(2, 3, seed=1)]
        assert channel_attention(maps, [maps[0].mean(dim=(2, 3))]).item() == pytest.approx(0.0, abs=1e-12)
        large = channel_attention([maps[0] * 100], [target[0] * 100])
        assert large.item() == pytest.approx(channel_attention(maps, target).item(), rel=1e-5)

    def test_a_silent_teacher_does_not_blow_up(self) -> None:
        assert math.isfinite(channel_attention([some(2, 3, 4, 4)], [torch.zeros(2, 3)]).item())

    def test_connecting_the_pooled_map_is_pooling_the_connected_one(self) -> None:
        connectors = Connectors((3, 5), (4, 6))
        maps = [some(2, 3, 8, 8), some(2, 5, 4, 4)]
        pooled = connectors([each.mean(dim=(2, 3), keepdim=True) for each in maps])
        for short, whole in zip(pooled, connectors(maps), strict=True):
            assert torch.allclose(short[..., 0, 0], whole.mean(dim=(2, 3)), atol=1e-5)


def test_confidence_is_the_highest_class() -> None:
    logits = torch.tensor([[[0.0, -3.0], [2.0, 5.0]]])
    assert torch.allclose(confidence(logits), torch.tensor([[0.5, torch.tensor(5.0).sigmoid()]]))


class TestTemperature:
    """From start to end over the trial."""

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_starts_at_start(self, schedule: str) -> None:
        assert temperature_at(0.0, 6.0, 1.5, schedule) == 6.0

    @pytest.mark.parametrize(
        ("schedule", "quarter", "end"),
        [("constant", 6.0, 6.0), ("linear", 4.875, 1.5), ("cosine", 6 - 4.5 * (1 - math.sqrt(0.5)) / 2, 1.5)],
    )
    def test_on_the_way_and_at_the_end(self, schedule: str, quarter: float, end: float) -> None:
        assert temperature_at(0.25, 6.0, 1.5, schedule) == pytest.approx(quarter)
        assert temperature_at(1.0, 6.0, 1.5, schedule) == pytest.approx(end)
        assert temperature_at(1.7, 6.0, 1.5, schedule) == pytest.approx(end)

    def test_may_rise(self) -> None:
        values = [temperature_at(step / 10, 1.0, 5.0, "cosine") for step in range(11)]
        assert values == sorted(values) and values[-1] == 5.0


class TestObjective:
    """The parts put together for one student."""

    @pytest.fixture
    def student(self) -> Student:
        student = tiny_student()
        opinionated(student.model)
        student.model.train()
        return student

    @pytest.fixture
    def labels(self) -> dict[str, torch.Tensor]:
        boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.3, 0.5]])
        return {"batch_idx": torch.tensor([0.0, 1.0]), "cls": torch.tensor([[2.0], [4.0]]), "bboxes": boxes}

    @staticmethod
    def same_as(output: dict, reg_max: int) -> TargetBatch:
        """Targets that say exactly what a student's output says."""
        raw = raw_output(output, reg_max)
        pooled = [maps.mean(dim=(2, 3)).detach() for maps in raw.features]
        return TargetBatch(raw.logits_bac.detach(), raw.distances_ba4.detach(), pooled)

    @staticmethod
    def identity(student: Student) -> Connectors:
        connectors = Connectors(student.pyramid_channels, student.pyramid_channels)
        for level in connectors.levels:
            torch.nn.init.dirac_(level.weight)
            torch.nn.init.zeros_(level.bias)
        return connectors

    def test_a_student_that_is_its_teacher_has_nothing_to_learn(self, student: Student, labels: dict) -> None:
        output = student.model(images_of(size=96))
        targets = self.same_as(output, student.head.reg_max)
        assert (confidence(targets.logits_bac) > FOREGROUND).any()
        criterion = DistillationLoss(student, self.identity(student))
        parts = criterion(output, targets, labels, LossWeights(), temperature=3.0)
        assert set(parts) == {"feature", "cls", "box", "total"}
        assert all(part.item() == pytest.approx(0.0, abs=1e-4) for part in parts.values())
        other = student.model(images_of(9, size=96))
        parts = criterion(other, targets, labels, LossWeights(), temperature=3.0)
        assert all(part.item() > 0.01 for part in parts.values())

    def test_gradients_reach_student_and_connectors_and_never_the_teacher(self, student: Student, labels: dict) -> None:
        teacher, images = small_teacher(), images_of(size=96)
        raw = teacher(images, range(6))
        targets = TargetBatch(raw.logits_bac, raw.distances_ba4, [maps.mean(dim=(2, 3)) for maps in raw.features])
        connectors = Connectors(student.pyramid_channels, teacher.channels)
        criterion = DistillationLoss(student, connectors)
        criterion(student.model(images), targets, labels, LossWeights(), temperature=2.0)["total"].backward()
        student.head.dfl.requires_grad_(False)
        for module in (student.model, connectors):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert all(parameter.grad is None for parameter in teacher.model.parameters())

    def test_the_total_is_the_weighted_sum_and_zero_leaves_a_part_out(self, student: Student, labels: dict) -> None:
        targets = self.same_as(student.model(images_of(9, size=96)), student.head.reg_max)
        output = student.model(images_of(size=96))
        criterion = DistillationLoss(student, self.identity(student))
        weights = LossWeights(feature=0.5, cls=2.0, box=0.25, label=0.3)
        parts = criterion(output, targets, labels, weights, temperature=2.0)
        expected = sum(
            GAINS.get(name, 1.0) * getattr(weights, name) * parts[name].item()
            for name in ("feature", "cls", "box", "label")
        )
        assert parts["total"].item() == pytest.approx(expected, rel=1e-5)
        fewer = criterion(output, targets, labels, LossWeights(feature=0.0, cls=1.0, box=0.0), temperature=2.0)
        assert set(fewer) == {"cls", "total"}

    def test_labels_alone_is_ultralytics_own_loss_per_image(self, student: Student, labels: dict) -> None:
        images = images_of(size=96)
        output = student.model(images)
        criterion = DistillationLoss(student, self.identity(student))
        parts = criterion(output, None, labels, LossWeights(label=1.0), temperature=2.0)
        assert set(parts) == {"label", "total"}
        own = student.model.loss({"img": images, **labels}, preds=output)[0].sum() / len(images)
        assert parts["label"].item() == pytest.approx(own.item(), rel=1e-5)

    def test_images_without_labels_train_too(self, student: Student) -> None:
        nothing = {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
        criterion = DistillationLoss(student, self.identity(student))
        parts = criterion(student.model(images_of()), None, nothing, LossWeights(label=1.0), temperature=2.0)
        parts["total"].backward()
        assert math.isfinite(parts["total"].item()) and parts["total"] > 0
