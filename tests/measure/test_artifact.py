"""The exported artifact: what torch says is what ONNX Runtime says, and that is what is scored."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small import ARCHS, NAMES, SIZE, images_of, opinionated, randomise_norms, tiny_student, validation_views
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from nasdistill.data.dataset import load_dataset
from nasdistill.data.images import letterbox, read_image
from nasdistill.data.views import letterboxed_split
from nasdistill.measure.accuracy import score
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.complexity import complexity
from nasdistill.measure.detector import MAX_DETECTIONS, OnnxDetector, suppress
from nasdistill.students.families import build_student
from nasdistill.students.student import parameters_m
from nasdistill.teacher.teacher import load_teacher, match_classes


def speaking(family: str) -> nn.Module:
    model = tiny_student(family).model
    return opinionated(model, contrast=0.2).eval()


@pytest.mark.parametrize("family", ARCHS)
def test_onnx_runtime_says_what_torch_says(family: str, tmp_path: Path) -> None:
    model, images = randomise_norms(tiny_student(family).model), images_of(5, size=SIZE)
    for branch in model.model[-1].cv3:  # probabilities around a half, where a difference shows most
        branch[-1].bias.data.zero_()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_onnx(model.train(), SIZE, tmp_path / "student.onnx")
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval()(images)[0]
    detector = OnnxDetector(tmp_path / "student.onnx")
    got = detector.raw(images.numpy())
    assert detector.image_size == SIZE
    assert expected[:, 4:].std() > 0.02 and expected[:, :4].std() > 5
    assert np.abs(got[:, 4:] - expected[:, 4:].numpy()).max() < 1e-3
    away = np.abs(got[:, :4] - expected[:, :4].numpy())  # pixels; random weights give boxes of up to 832
    assert away.max() < 1.0 and np.quantile(away, 0.95) < 0.02


def test_the_input_and_output_are_what_deployment_expects(tmp_path: Path) -> None:
    write_onnx(tiny_student().model, 64, tmp_path / "student.onnx")
    graph = onnx.load(tmp_path / "student.onnx").graph
    shapes = {
        entry.name: [size.dim_value for size in entry.type.tensor_type.shape.dim]
        for entry in (*graph.input, *graph.output)
    }
    assert shapes == {"images": [1, 3, 64, 64], "output0": [1, 4 + len(NAMES), 64 + 16 + 4]}
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def fail(layer: nn.Module, inputs: tuple) -> None:
    raise RuntimeError("broken layer")


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    path.write_bytes(b"old")
    model = tiny_student().model
    model.model[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken layer"):
        write_onnx(model, 64, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("nms_free", [False, True])
def test_ultralytics_runs_the_file_and_finds_the_same(nms_free: bool, demo_yaml: Path, tmp_path: Path) -> None:
    """What most people will do with an export. (Of an anchor it takes the best class alone: only the first is the same.)"""
    family, arch = ("yolo26", {"depth": 0.5, "width": 0.0625}) if nms_free else ("yolov5", ARCHS["yolov5"])
    model = opinionated(build_student(family, arch, NAMES, 0).model, contrast=0.2).eval()
    for branch in model.model[-1].one2one_cv3 if nms_free else ():
        branch[-1].bias.data.fill_(-2.0)
    write_onnx(model, SIZE, tmp_path / "student.onnx")
    board = load_dataset(demo_yaml).splits["val"].image_paths[0]
    square = letterbox(read_image(board), SIZE).transpose(2, 0, 1)
    (found,) = OnnxDetector(tmp_path / "student.onnx").detect_views(square[None], confidence=0.001)

    run = YOLO(tmp_path / "student.onnx", task="detect")
    (result,) = run.predict(board, conf=0.001, iou=0.7, verbose=False)
    assert result.names == dict(enumerate(NAMES)) and len(result.boxes) > 3
    assert run.predictor.model.imgsz == [SIZE, SIZE] and run.predictor.model.end2end is nms_free
    best = result.boxes[int(result.boxes.conf.argmax())]
    assert int(best.cls) == found.classes[0] and float(best.conf) == pytest.approx(float(found.scores[0]), abs=1e-3)
    scale = SIZE / max(result.orig_shape)
    inside = np.clip(found.boxes_xyxy[0], 0, SIZE)
    assert np.abs(best.xyxy.numpy()[0] - inside / scale).max() < 1.0


class TestSuppress:
    """Non-maximum suppression of raw outputs."""

    @staticmethod
    def raw(*rows: tuple[float, ...]) -> torch.Tensor:
        """Anchors of (x, y, w, h, score of class 0, score of class 1), padded with silent ones."""
        silent = [(5.0, 5.0, 1.0, 1.0, 0.0, 0.0)] * (10 - len(rows))
        return torch.tensor([*rows, *silent]).T[None]

    def test_overlapping_ones_of_a_class_go_and_of_another_stay(self) -> None:
        raw = self.raw((50, 50, 20, 20, 0.9, 0.0), (51, 50, 20, 20, 0.8, 0.0), (50, 50, 20, 20, 0.0, 0.7))
        (found,) = suppress(raw)
        assert found.scores.tolist() == pytest.approx([0.9, 0.7])
        assert found.classes.tolist() == [0, 1]
        assert found.boxes_xyxy[0].tolist() == pytest.approx([40, 40, 60, 60])

    def test_one_anchor_may_be_of_two_classes(self) -> None:
        (found,) = suppress(self.raw((50, 50, 20, 20, 0.9, 0.6)))
        assert sorted(found.classes.tolist()) == [0, 1]

    def test_confidence_cuts(self) -> None:
        raw = self.raw((50, 50, 20, 20, 0.9, 0.0), (20, 20, 10, 10, 0.3, 0.0))
        assert len(suppress(raw, 0.5)[0].scores) == 1
        assert len(suppress(raw, 0.95)[0].scores) == 0

    def test_values_that_are_not_numbers_find_nothing(self) -> None:
        assert len(suppress(torch.full((1, 6, 10), torch.nan))[0].scores) == 0

    def test_most_detections(self) -> None:
        cells = torch.arange(400)
        raw = torch.stack(
            [cells % 20 * 10.0, cells // 20 * 10.0, *torch.full((2, 400), 5.0), *torch.full((2, 400), 0.5)]
        )
        assert len(suppress(raw[None])[0].scores) == MAX_DETECTIONS


class TestOfClasses:
    """A teacher may know more classes than the data, and those must not take the places of the others."""

    @pytest.fixture
    def detector(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnnxDetector:
        write_onnx(tiny_student().model, SIZE, tmp_path / "student.onnx")
        detector = OnnxDetector(tmp_path / "student.onnx")
        monkeypatch.setattr(detector, "raw", lambda images: self.raw.numpy())
        return detector

    def test_before_suppression(self, detector: OnnxDetector) -> None:
        cells = torch.arange(400)
        boxes = [cells % 20 * 10.0, cells // 20 * 10.0, *torch.full((2, 400), 5.0)]
        scores = [torch.zeros(400), torch.full((400,), 0.9), torch.full((400,), 0.5)]
        self.raw = torch.stack([*boxes, *scores])[None]
        (found,) = detector.detect_views(np.zeros((1, 3, SIZE, SIZE), np.uint8), classes=(2, 0))
        assert len(found.scores) == MAX_DETECTIONS and set(found.classes) == {0}
        assert found.scores.max() == found.scores.min() == np.float32(0.5)

    def test_of_what_an_nms_free_detector_found(self, detector: OnnxDetector) -> None:
        rows = [[0.0, 0.0, 5.0, 5.0, score, kind] for score, kind in ((0.9, 1.0), (0.8, 2.0), (0.7, 0.0))]
        self.raw = torch.tensor([rows])
        (found,) = detector.detect_views(np.zeros((1, 3, SIZE, SIZE), np.uint8), classes=(2, 0))
        assert found.classes.tolist() == [0, 1] and found.scores.tolist() == pytest.approx([0.8, 0.7])


def test_an_nms_free_detector_is_only_cut(tmp_path: Path) -> None:
    model = opinionated(DetectionModel("yolo26n.yaml", nc=len(NAMES), verbose=False)).eval()
    model.end2end = True
    images = images_of(3, size=SIZE, count=1)
    write_onnx(model, SIZE, tmp_path / "teacher.onnx")
    raw = OnnxDetector(tmp_path / "teacher.onnx").raw(images.numpy())
    with torch.no_grad():
        expected = model(images)[0].numpy()
    assert raw.shape == expected.shape and raw.shape[2] == 6
    assert np.abs(np.sort(raw[..., 4]) - np.sort(expected[..., 4])).max() < 1e-3
    (found,) = suppress(torch.from_numpy(raw), 0.25)
    assert len(found.scores) == (raw[..., 4] > 0.25).sum()


def test_complexity_of_a_convolution_by_hand(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False))
    artifact = tmp_path / "any"
    artifact.write_bytes(b"x" * 2500)
    facts = complexity(model, 64, artifact)
    assert facts.params_m == pytest.approx(8 * 3 * 9 / 1e6)
    assert facts.gflops == pytest.approx(2 * 8 * 3 * 9 * 32 * 32 / 1e9)
    assert facts.size_mb == 0.0025
    assert model.training


def test_complexity_of_a_student_grows_with_its_input(tmp_path: Path) -> None:
    student = tiny_student()
    (tmp_path / "any").touch()
    small, large = complexity(student.model, 64, tmp_path / "any"), complexity(student.model, 128, tmp_path / "any")
    assert small.params_m == large.params_m == parameters_m(student.model)
    assert large.gflops == pytest.approx(4 * small.gflops, rel=0.01)


def test_a_score_is_of_the_artifact_on_the_letterboxed_images(demo_yaml: Path, tmp_path: Path) -> None:
    """The artifact's own confident detections as labels: it is perfect, and a copy that says less is not."""
    views = validation_views(demo_yaml, tmp_path / "views")
    write_onnx(speaking("yolov5"), SIZE, tmp_path / "student.onnx")
    detector = OnnxDetector(tmp_path / "student.onnx")
    found = detector.detect_views(views.images[:4])
    answers = []
    for each in found:
        low, high = each.boxes_xyxy[:, :2] / SIZE, each.boxes_xyxy[:, 2:] / SIZE
        answers.append(np.concatenate([each.classes[:, None], (low + high) / 2, high - low], axis=1))

    class Answered:
        images = views.images[:4]

        def boxes(self, index: int) -> np.ndarray:
            return answers[index].astype(np.float32)

    assert score(detector, Answered()).map50_95 > 0.98
    other = copy.deepcopy(speaking("yolov5"))
    for branch in other.model[-1].cv2:
        branch[-1].weight.data *= 0.5
    write_onnx(other, SIZE, tmp_path / "other.onnx")
    assert score(OnnxDetector(tmp_path / "other.onnx"), Answered()).map50_95 < 0.9


def test_the_shared_teacher_scores_what_an_independent_scorer_found(shared_dir: Path, tmp_path: Path) -> None:
    """ONNX Runtime, pycocotools and a letterbox of its own gave 0.871 and 0.472 on DeepPCB val at 256 px."""
    teacher = load_teacher(shared_dir / "weights" / "pcb_teacher.pt")
    data = load_dataset(shared_dir / "data" / "deeppcb" / "data.yaml", splits=("val",))
    assert match_classes(teacher, data.names, "data.yaml") == list(range(6))
    views = letterboxed_split(data.splits["val"], data.names, 256, tmp_path / "views")
    write_onnx(teacher.model, 256, tmp_path / "teacher.onnx")
    got = score(OnnxDetector(tmp_path / "teacher.onnx"), views)
    assert got.map50 == pytest.approx(0.871, abs=0.003)
    assert got.map50_95 == pytest.approx(0.472, abs=0.003)
