"""Reading a teacher: what is fine is read without trust, what could run code is refused, the rest is one line."""

import json
import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small import NAMES, images_of, opinionated, raw_heads, small_teacher, tiny_student
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, SegmentationModel, yaml_model_load
from ultralytics.utils import ROOT
from ultralytics.utils.loss import E2EDetectLoss

from nasdistill.errors import InputError
from nasdistill.teacher.checkpoint import read_checkpoint, read_model_yaml
from nasdistill.teacher.teacher import load_teacher

DESCRIPTION = {
    **yaml_model_load(ROOT / "cfg/models/v5/yolov5.yaml"),
    "scales": {"tiny": [0.33, 0.0625, 1024]},
    "scale": "tiny",
    "nc": len(NAMES),
}


class Stranger(nn.Module):
    """A layer that nobody allowed."""


class MarkerByCommand:
    """Unpickled, it runs a shell command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


class MarkerByActivation:
    """Unpickled, it builds an allowed class from a description whose activation is code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return DetectionModel, ({**DESCRIPTION, "activation": f"open({str(self.marker)!r}, 'w') and nn.SiLU()"},)


def one_line(path: Path, *arguments: object) -> str:
    """The message with which `path` is refused; it is one line that names the file."""
    with pytest.raises(InputError) as refused:
        load_teacher(path, *arguments)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def student_model() -> DetectionModel:
    return opinionated(tiny_student().model).eval()


@pytest.fixture
def checkpoint(tmp_path: Path, student_model: DetectionModel) -> Path:
    """A checkpoint as Ultralytics writes it: a pickled model in half precision, its averaged copy, and arguments."""
    path = tmp_path / "best.pt"
    arguments = {"imgsz": 96, "model": "x.yaml"}
    torch.save({"epoch": 3, "ema": student_model.half(), "model": None, "train_args": arguments}, path)
    student_model.float()
    return path


def test_a_checkpoint_is_read_without_trust(checkpoint: Path, student_model: DetectionModel) -> None:
    teacher = load_teacher(checkpoint)
    assert teacher.names == NAMES
    assert (teacher.image_size, teacher.classes, teacher.strides) == (96, 6, (8, 16, 32))
    assert teacher.name == "best.pt" and len(teacher.sha256) == 64
    theirs, ours = raw_heads(teacher.model, images_of()), raw_heads(student_model.half().float(), images_of())
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_the_shared_teacher_is_read_without_trust(shared_dir: Path) -> None:
    teacher = load_teacher(shared_dir / "weights" / "pcb_teacher.pt")
    assert set(teacher.names) == {"open", "short", "mousebite", "spur", "copper", "pin-hole"}
    assert (teacher.image_size, teacher.strides, teacher.channels) == (256, (8, 16, 32), (128, 256, 512))


@pytest.mark.parametrize(("asked", "used"), [(100, 128), (96, 96), ([640, 480], None), (None, None)])
def test_the_input_size_is_one_that_the_strides_divide(
    tmp_path: Path, student_model: DetectionModel, asked: object, used: int | None
) -> None:
    torch.save({"model": student_model, "train_args": {"imgsz": asked}}, tmp_path / "odd.pt")
    assert load_teacher(tmp_path / "odd.pt").image_size == used


class TestPickles:
    """Pickles that hold more than tensors and known layers."""

    def test_a_foreign_class_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "foreign.pt"
        model = tiny_student().model
        model.extra = Stranger()
        torch.save({"model": model}, path)
        message = one_line(path)
        assert f"{Stranger.__module__}.Stranger" in message and "--trust-teacher" in message
        assert isinstance(load_teacher(path, None, True).model.extra, Stranger)

    def test_a_command_is_not_run(self, tmp_path: Path) -> None:
        path, marker = tmp_path / "command.pt", tmp_path / "marker"
        torch.save({"model": tiny_student().model, "extra": MarkerByCommand(marker)}, path)
        assert f"{os.system.__module__}.system" in one_line(path)
        assert not marker.exists()
        load_teacher(path, None, True)
        assert marker.exists()  # so the file would have

    def test_a_description_is_not_evaluated(self, tmp_path: Path) -> None:
        path, marker = tmp_path / "activation.pt", tmp_path / "marker"
        torch.save({"model": MarkerByActivation(marker)}, path)
        one_line(path)
        assert not marker.exists()
        load_teacher(path, None, True)
        assert marker.exists()

    @pytest.mark.parametrize(
        "found", [DetectionModel.forward, nn.init.zeros_, yaml_model_load, torch.hub.load, pickle.loads]
    )
    def test_what_a_layers_module_merely_imports_is_not_allowed(self, tmp_path: Path, found: object) -> None:
        path = tmp_path / "other.pt"
        torch.save({"model": tiny_student().model, "extra": found}, path)
        assert "--trust-teacher" in one_line(path)


class TestOlderVersions:
    """What Ultralytics called otherwise once, and what was never its own."""

    @pytest.mark.parametrize("trust", [False, True])
    def test_names_that_have_changed(self, tmp_path: Path, student_model: DetectionModel, trust: bool) -> None:
        expected = raw_heads(student_model, images_of())
        with pytest.MonkeyPatch.context() as old:
            for module in ("ultralytics.yolo", "ultralytics.yolo.utils"):
                old.setitem(sys.modules, module, types.ModuleType(module))
            for module, name, base in (
                ("ultralytics.yolo.utils", "IterableSimpleNamespace", types.SimpleNamespace),
                ("ultralytics.nn.tasks", "YOLOv10DetectionModel", DetectionModel),
                ("ultralytics.nn.modules.block", "Silence", nn.Identity),
                ("ultralytics.nn.modules", "Conv", Conv),
                ("ultralytics.utils.loss", "v10DetectLoss", E2EDetectLoss),
            ):
                old.setattr(sys.modules[module], name, type(name, (base,), {"__module__": module}), raising=False)
            student_model.args = sys.modules["ultralytics.yolo.utils"].IterableSimpleNamespace(imgsz=96)
            student_model.__class__ = sys.modules["ultralytics.nn.tasks"].YOLOv10DetectionModel
            student_model.model[0].__class__ = sys.modules["ultralytics.nn.modules"].Conv
            student_model.silent = sys.modules["ultralytics.nn.modules.block"].Silence()
            loss = sys.modules["ultralytics.utils.loss"].v10DetectLoss
            student_model.criterion = loss.__new__(loss)
            torch.save({"model": student_model}, tmp_path / "old.pt")
        teacher = load_teacher(tmp_path / "old.pt", None, trust)
        assert type(teacher.model) is DetectionModel and type(teacher.model.model[0]) is Conv
        found = raw_heads(teacher.model, images_of())
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_another_repositorys_is_told_apart(self, tmp_path: Path) -> None:
        with pytest.MonkeyPatch.context() as old:
            for module in ("models", "models.yolo"):
                old.setitem(sys.modules, module, types.ModuleType(module))
            model = type("Model", (nn.Module,), {"__module__": "models.yolo"})
            old.setattr(sys.modules["models.yolo"], "Model", model, raising=False)
            torch.save({"model": model()}, tmp_path / "v5.pt")
        message = one_line(tmp_path / "v5.pt")
        assert "original YOLOv5" in message and "models.yolo.Model" in message and "trust" not in message


class TestDamagedFiles:
    """Every kind of wrong file is one clear line, with and without trust."""

    @pytest.mark.parametrize("trust", [False, True])
    def test_truncated(self, checkpoint: Path, trust: bool) -> None:
        content = checkpoint.read_bytes()
        for share in (0.999, 0.5, 0.01):
            checkpoint.write_bytes(content[: int(len(content) * share)])
            assert "not a readable torch checkpoint" in one_line(checkpoint, None, trust)

    @pytest.mark.parametrize("trust", [False, True])
    @pytest.mark.parametrize(
        "content", [b"", b"hello, I am text\n" * 50, bytes(range(256)) * 16, b"PK\x03\x04" + b"\0" * 99]
    )
    def test_no_checkpoint_at_all(self, tmp_path: Path, content: bytes, trust: bool) -> None:
        path = tmp_path / "teacher.pt"
        path.write_bytes(content)
        assert "not a readable torch checkpoint" in one_line(path, None, trust)

    def test_missing_or_a_folder(self, tmp_path: Path) -> None:
        assert "no such teacher file" in one_line(tmp_path / "none.pt")
        assert "no such teacher file" in one_line(tmp_path)

    @pytest.mark.parametrize("content", [{"model": 3}, [1, 2], {"a": torch.ones(1), "b": "text"}, 7])
    def test_neither_model_nor_tensors(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "odd.pt")
        assert "neither an Ultralytics checkpoint nor a file of named tensors" in one_line(tmp_path / "odd.pt")

    def test_no_detector(self, tmp_path: Path) -> None:
        models = {
            "Classify": ClassificationModel("yolo11n-cls.yaml", nc=3, verbose=False),
            "Segment": SegmentationModel("yolo11n-seg.yaml", nc=3, verbose=False),
            "Linear": nn.Sequential(nn.Linear(2, 2)),
        }
        for found, model in models.items():
            path = tmp_path / f"{found}.pt"
            torch.save({"model": model}, path)
            message = one_line(path)
            assert "no detector" in message
            assert found in message or found == "Linear"

    def test_other_strides(self, tmp_path: Path) -> None:
        path = tmp_path / "p6.pt"
        torch.save({"model": DetectionModel("yolov8n-p2.yaml", nc=3, verbose=False)}, path)
        assert "strides are (4, 8, 16, 32)" in one_line(path)

    def test_a_head_that_was_fused(self, tmp_path: Path) -> None:
        path = tmp_path / "fused.pt"
        model = DetectionModel("yolo26n.yaml", nc=3, verbose=False)
        model.model[-1].end2end = True
        torch.save({"model": model.fuse(verbose=False)}, path)
        with pytest.raises(InputError, match="was fused for use"):
            load_teacher(path, trust=True)


class TestBareTensors:
    """Files of tensors, whose model must be named or described."""

    @pytest.fixture
    def tensors(self, student_model: DetectionModel) -> dict[str, torch.Tensor]:
        return {name: tensor.contiguous() for name, tensor in student_model.state_dict().items()}

    def test_safetensors_that_describe_themselves(
        self, tmp_path: Path, tensors: dict, student_model: DetectionModel
    ) -> None:
        path = tmp_path / "described.safetensors"
        metadata = {"model_yaml": json.dumps(DESCRIPTION), "names": json.dumps(list(NAMES)), "image_size": "96"}
        save_file(tensors, path, metadata)
        teacher = load_teacher(path)
        assert (teacher.names, teacher.image_size) == (NAMES, 96)
        theirs, ours = raw_heads(teacher.model, images_of()), raw_heads(student_model, images_of())
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)

    def test_safetensors_that_do_not(self, tmp_path: Path, tensors: dict) -> None:
        path, description = tmp_path / "bare.safetensors", tmp_path / "model.yaml"
        save_file(tensors, path)
        assert "--teacher-yaml" in one_line(path)
        description.write_text(json.dumps(DESCRIPTION))  # JSON is YAML
        teacher = load_teacher(path, description)
        assert (teacher.names, teacher.classes, teacher.image_size) == ((), 6, None)

    def test_a_description_in_metadata_is_not_evaluated(self, tmp_path: Path, tensors: dict) -> None:
        path, marker = tmp_path / "evil.safetensors", tmp_path / "marker"
        description = {**DESCRIPTION, "activation": f"open({str(marker)!r}, 'w') and nn.SiLU()"}
        save_file(tensors, path, {"model_yaml": json.dumps(description)})
        assert "cannot be built" in one_line(path)
        description = {
            **DESCRIPTION,
            "backbone": [[-1, 1, "torch_safe_load", [str(marker)]]],
            "activation": "nn.ReLU()",
        }
        save_file(tensors, path, {"model_yaml": json.dumps(description)})
        assert "cannot be built" in one_line(path)
        assert not marker.exists()
        # code runs where ultralytics builds it unasked, so this test can fail
        DetectionModel({**DESCRIPTION, "activation": f"open({str(marker)!r}, 'w') and nn.SiLU()"}, verbose=False)
        assert marker.exists()

    @pytest.mark.parametrize(
        "metadata",
        [{"model_yaml": "{"}, {"model_yaml": "[1]"}, {"model_yaml": "{}"}, {"model_yaml": '{"nc": 6, "names": 3'}],
    )
    def test_damaged_metadata(self, tmp_path: Path, tensors: dict, metadata: dict[str, str]) -> None:
        path = tmp_path / "damaged.safetensors"
        save_file(tensors, path, metadata)
        one_line(path)

    def test_truncated_safetensors(self, tmp_path: Path, tensors: dict) -> None:
        path = tmp_path / "cut.safetensors"
        save_file(tensors, path)
        content = path.read_bytes()
        for length in (0, 7, len(content) // 2):
            path.write_bytes(content[:length])
            assert "not a readable safetensors file" in one_line(path)

    def test_a_state_dict_in_half_precision(self, tmp_path: Path, tensors: dict) -> None:
        path, description = tmp_path / "weights.pt", tmp_path / "model.yaml"
        description.write_text(json.dumps({**DESCRIPTION, "nc": 80}))  # the tensors know better how many classes
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        torch.save(half, path)
        assert "--teacher-yaml" in one_line(path)
        teacher = load_teacher(path, description)
        assert teacher.classes == 6
        assert {parameter.dtype for parameter in teacher.model.parameters()} == {torch.float32}

    def test_tensors_of_another_model_do_not_fit(self, tmp_path: Path, tensors: dict) -> None:
        path = tmp_path / "weights.pt"
        torch.save(tensors, path)
        message = one_line(path, Path("yolo11n.yaml"))
        assert "do not fit the model YAML" in message
        tensors.pop("model.0.conv.weight")
        torch.save(tensors, path)
        description = tmp_path / "model.yaml"
        description.write_text(json.dumps(DESCRIPTION))
        total = len(tensors) + 1
        assert f"{total - 1} of {total} fit" in one_line(path, description)

    def test_the_shared_state_dict(self, shared_dir: Path) -> None:
        path = shared_dir / "weights" / "yolo11n_coco_state_dict.pt"
        teacher = load_teacher(path, Path("yolo11n.yaml"))
        assert (teacher.classes, teacher.names, teacher.channels) == (80, (), (64, 128, 256))
        assert "do not fit" in one_line(path, Path("yolo11s.yaml"))


class TestModelYaml:
    """Where a model YAML comes from."""

    def test_by_name_from_the_package(self) -> None:
        assert read_model_yaml(Path("yolo11n.yaml"))["scale"] == "n"

    @pytest.mark.parametrize("text", ["nc: [", "- 1", "nc: 3", ""])
    def test_one_line_for_what_is_none(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "model.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match="model.yaml") as refused:
            read_model_yaml(path)
        assert "\n" not in str(refused.value)

    def test_missing(self) -> None:
        with pytest.raises(InputError, match="no such model YAML"):
            read_model_yaml(Path("yolo99q.yaml"))


def test_reading_leaves_the_file_and_the_process_as_they_were(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    allowed = torch.serialization.get_safe_globals()
    read_checkpoint(checkpoint)
    assert torch.serialization.get_safe_globals() == allowed
    assert checkpoint.read_bytes() == before
    assert (ROOT / "cfg").is_dir()
    assert small_teacher().model is not None
