"""The teacher: frozen whatever is done to it, one form of output for every head, classes matched by name."""

import pytest
import torch
from small import NAMES, images_of, opinionated, small_teacher, tiny_student
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.tal import make_anchors

from nasdistill.errors import InputError
from nasdistill.teacher.teacher import Teacher, distances, match_classes, raw_output

ORDER = range(len(NAMES))


def nms_free_teacher(end2end: bool) -> Teacher:
    """YOLO26n: two heads, no DFL, random weights; `end2end` infers with the NMS-free one."""
    model = opinionated(DetectionModel("yolo26n.yaml", nc=len(NAMES), verbose=False))
    model.end2end = end2end
    return Teacher(model, NAMES, "yolo26n.pt", "0" * 64, None)


def corners(teacher: Teacher, images: torch.Tensor) -> torch.Tensor:
    """Boxes (b, a, 4) as corners in pixels, decoded here from the teacher's distances."""
    raw = teacher(images, ORDER)
    points = []
    strides = []
    for stride in teacher.strides:
        cells = images.shape[-1] // stride
        for row in range(cells):
            for column in range(cells):
                points.append((column + 0.5, row + 0.5))
                strides.append(stride)
    centre = torch.tensor(points)
    low, high = centre - raw.distances_ba4[..., :2], centre + raw.distances_ba4[..., 2:]
    return torch.cat([low, high], dim=2) * torch.tensor(strides)[:, None]


def test_decoded_boxes_are_the_models_own_with_dfl() -> None:
    teacher, images = small_teacher(), images_of(size=96)
    x, y, w, h = teacher.model(images)[0][:, :4].unbind(1)
    own = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=2)
    assert own.std() > 10
    assert torch.allclose(corners(teacher, images), own, atol=1e-3)


@pytest.mark.parametrize("end2end", [False, True])
def test_decoded_boxes_are_the_models_own_without_nms_and_dfl(end2end: bool) -> None:
    teacher, images = nms_free_teacher(end2end), images_of(size=96)
    head = teacher.model.model[-1]
    assert (head.reg_max, head.end2end) == (1, end2end)
    head.xyxy = True
    own = head._get_decode_boxes(teacher.model(images)[1]["one2many"]).permute(0, 2, 1)
    assert own.std() > 1
    assert torch.allclose(corners(teacher, images), own, atol=1e-3)
    logits = teacher(images, ORDER).logits_bac
    assert torch.allclose(logits, teacher.model(images)[1]["one2many"]["scores"].permute(0, 2, 1))


@pytest.mark.parametrize("bins", [16, 8])
def test_distances_are_the_expectation_of_the_bins(bins: int) -> None:
    boxes = torch.randn(2, 4 * bins, 5) * 3
    expected = torch.zeros(2, 5, 4)
    for image in range(2):
        for anchor in range(5):
            for side in range(4):
                bars = boxes[image, side * bins : (side + 1) * bins, anchor].softmax(0)
                expected[image, anchor, side] = sum(index * bars[index] for index in range(bins))
    assert torch.allclose(distances(boxes, bins), expected, atol=1e-5)


def test_distances_without_bins_are_the_branch_itself() -> None:
    boxes = torch.randn(2, 4, 5)
    assert torch.equal(distances(boxes, 1), boxes.permute(0, 2, 1))


def test_features_are_what_the_head_reads() -> None:
    teacher = small_teacher()
    raw = teacher(images_of(size=96), ORDER)
    assert [tuple(maps.shape) for maps in raw.features] == [(2, 32, 12, 12), (2, 64, 6, 6), (2, 128, 3, 3)]
    assert teacher.channels == (32, 64, 128)
    points, _ = make_anchors(raw.features, torch.tensor([8.0, 16.0, 32.0]), 0.5)
    assert raw.logits_bac.shape == (2, len(points), 6) and raw.distances_ba4.shape == (2, len(points), 4)


def test_it_cannot_wake_and_takes_no_gradient() -> None:
    teacher, images = small_teacher(), images_of(size=96)
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    first = teacher(images, ORDER)
    teacher.model.train()
    images.requires_grad_(True)
    again = teacher(images, ORDER)
    assert torch.equal(first.logits_bac, again.logits_bac)
    assert not teacher.model.training
    assert not again.logits_bac.requires_grad and not any(maps.requires_grad for maps in again.features)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.model.state_dict().items())


def test_forward_passes_are_counted() -> None:
    teacher = small_teacher()
    assert teacher.forward_passes == 0
    for _ in range(3):
        teacher(images_of(size=64), ORDER)
    assert teacher.forward_passes == 3


def test_the_class_order_permutes_the_logits_alone() -> None:
    teacher, images = small_teacher(), images_of(size=96)
    plain, turned = teacher(images, ORDER), teacher(images, [3, 0, 5])
    assert torch.equal(turned.logits_bac, plain.logits_bac[..., [3, 0, 5]])
    assert torch.equal(turned.distances_ba4, plain.distances_ba4)


def test_a_students_raw_output_keeps_its_gradient() -> None:
    student = tiny_student()
    raw = raw_output(student.model.train()(images_of()), student.head.reg_max)
    assert raw.logits_bac.requires_grad and raw.distances_ba4.requires_grad


class TestMatchClasses:
    """Classes of teacher and data are matched by name."""

    def test_in_another_order_and_with_other_case(self) -> None:
        data = ["pin-hole", "Open", " spur "]
        assert match_classes(small_teacher(), data, "data.yaml") == [5, 0, 3]

    def test_missing_ones_are_named(self) -> None:
        with pytest.raises(
            InputError, match=r"data\.yaml: .*does not know the classes dent, crack; it knows open"
        ) as found:
            match_classes(small_teacher(), ["open", "dent", "crack"], "data.yaml")
        assert "\n" not in str(found.value)

    def test_two_that_are_one_to_the_teacher_are_named(self) -> None:
        with pytest.raises(
            InputError, match=r"data\.yaml: the classes open, Open are one class of the teacher small\.pt"
        ):
            match_classes(small_teacher(), ["open", "short", "Open"], "data.yaml")

    def test_without_names_the_number_must_agree(self) -> None:
        teacher = Teacher(tiny_student().model, (), "bare.pt", "0" * 64, None)
        assert match_classes(teacher, list("abcdef"), "data.yaml") == list(ORDER)
        with pytest.raises(InputError, match=r"data\.yaml: 5 classes, but the teacher bare\.pt has 6"):
            match_classes(teacher, list("abcde"), "data.yaml")
