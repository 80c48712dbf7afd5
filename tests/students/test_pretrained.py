"""Pretrained weights: names are matched, widths may differ, and what does not fit is listed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small import NAMES, randomise_norms, tiny_student
from zoo import timm_student, yaml_student

from nasdistill.errors import InputError
from nasdistill.students.families import build_student
from nasdistill.students.pretrained import fit_weights, read_weights
from nasdistill.students.slicing import load_slice, related
from nasdistill.students.student import Student


def state_of(student: Student) -> dict[str, torch.Tensor]:
    randomise_norms(student.model)
    return {name: tensor.clone() for name, tensor in student.model.state_dict().items()}


def test_a_file_of_the_same_network_fits_whole() -> None:
    weights = state_of(yaml_student("yolov8", 0.33, 0.125))
    student = yaml_student("yolov8", 0.33, 0.125, seed=1)
    fit = fit_weights(weights, student)
    assert (fit.backbone, fit.misfits, fit.unknown) == (1.0, (), 0) and fit.belongs and fit.whole
    assert all(torch.equal(tensor, weights[name]) for name, tensor in student.model.state_dict().items())


@pytest.mark.parametrize("family", ["yolov5", "yolov8"])
def test_a_wider_and_deeper_network_is_cut_as_by_a_slice(family: str) -> None:
    """The file says nothing of concatenations; where its parts lie follows from the student."""
    large = yaml_student(family, 0.67, 0.25)
    weights = state_of(large)
    student, expected = yaml_student(family, 0.33, 0.125, seed=1), yaml_student(family, 0.33, 0.125, seed=1)
    assert fit_weights(weights, student).misfits == ()
    load_slice(weights, large.model, expected.model)
    theirs = expected.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in student.model.state_dict().items())


def test_a_narrower_network_fills_the_first_channels_and_leaves_the_rest() -> None:
    weights = state_of(yaml_student("yolov5", 0.33, 0.0625))
    student = yaml_student("yolov5", 0.33, 0.125, seed=1)
    before = student.model.model[0].conv.weight.clone()
    fit = fit_weights(weights, student)
    assert fit.backbone == 1.0 and not fit.whole
    after = student.model.model[0].conv.weight
    rows = len(weights["model.0.conv.weight"])
    assert torch.equal(after[:rows], weights["model.0.conv.weight"])
    assert torch.equal(after[rows:], before[rows:])


def test_a_timm_file_fits_the_backbone_under_any_prefix_but_no_other() -> None:
    import timm

    weights = timm.create_model("ghostnet_050").state_dict()
    for prefix in ("", "module."):
        student = timm_student("ghostnet_050")
        fit = fit_weights({prefix + name: tensor for name, tensor in weights.items()}, student)
        assert fit.backbone == 1.0 and fit.belongs and not fit.misfits
        stem = next(tensor for name, tensor in student.model.state_dict().items() if name.endswith("conv_stem.weight"))
        assert torch.equal(stem, weights["conv_stem.weight"])
    stranger = fit_weights(weights, tiny_student("yolov5"))
    assert not stranger.belongs and stranger.unknown > 100
    wrong = fit_weights(timm.create_model("mobilenetv3_large_100").state_dict(), tiny_student("mobilenetv3"))
    assert wrong.misfits and " for (" in str(wrong)


def test_the_same_network_under_names_of_its_own_is_told_by_order_and_shapes() -> None:
    import timm

    theirs = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = {f"_layer{i}.{name.split('.')[-1]}": tensor for i, (name, tensor) in enumerate(theirs.items())}
    student = timm_student("tf_efficientnet_lite0")
    fit = fit_weights(weights, student)
    assert (
        fit.backbone == 1.0 and fit.whole and fit.belongs and fit.unknown == 7
    )  # the classifier and what is before it
    ours = student.model.state_dict()
    assert all(
        torch.equal(tensor, theirs[name.removeprefix("model.0.body.")])
        for name, tensor in ours.items()
        if name.startswith("model.0.") and "num_batches" not in name
    )
    counted = {name: tensor for name, tensor in weights.items() if tensor.ndim}  # as older versions of torch save it
    assert fit_weights(counted, timm_student("tf_efficientnet_lite0")).backbone == 1.0
    swapped = {
        name.replace("weight", "b").replace("bias", "weight").replace(".b", ".bias"): t for name, t in weights.items()
    }
    for wrong in (dict(list(weights.items())[1:]), dict(list(weights.items())[:100]), swapped):
        assert not fit_weights(wrong, timm_student("tf_efficientnet_lite0")).belongs


def test_class_outputs_of_other_classes_are_not_copied() -> None:
    other = build_student("yolov5", {"depth": 0.33, "width": 0.0625}, [*NAMES, "more"])
    student = tiny_student("yolov5", seed=1)
    before = student.head.cv3[0][-1].weight.clone()
    fit = fit_weights(other.model.state_dict(), student)
    assert torch.equal(student.head.cv3[0][-1].weight, before)
    assert sum("cv3" in misfit for misfit in fit.misfits) == 6 and fit.belongs
    assert torch.equal(student.head.cv2[0][-1].weight, other.head.cv2[0][-1].weight)


class TestReading:
    """Files of tensors alone, in the wrappings that people use."""

    def test_wrapped_and_half_precision_tensors_are_read(self, tmp_path: Path) -> None:
        tensors = {"a.weight": torch.ones(2, dtype=torch.float16), "steps": torch.tensor(3)}
        torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "a.pth")
        save_file(tensors, tmp_path / "a.safetensors")
        for name in ("a.pth", "a.safetensors"):
            read = read_weights(tmp_path / name)
            assert read["a.weight"].dtype == torch.float32 and read["steps"].dtype == torch.int64

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("none.pt", None, "no such weights file"),
            ("a.onnx", b"", r"weights are \.safetensors, \.pt, \.pth files"),
            ("a.safetensors", b"nothing", "cannot be read as weights"),
            ("a.pt", b"nothing", "a.pt: "),
            ("list.pt", [1, 2], "holds no named tensors"),
            ("code.pt", {"model": tiny_student().model}, "not a file of tensors alone"),
        ],
    )
    def test_anything_else_is_one_clear_line(self, tmp_path: Path, name: str, content: object, message: str) -> None:
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / name)
        with pytest.raises(InputError, match=message) as error:
            read_weights(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "student"),
    [
        ("efficientnet_lite0_imagenet_timm.pth", ("tf_efficientnet_lite0",)),
        ("yolov5n_coco_state_dict.pt", ("yolov5", 0.33, 0.1875)),
        ("yolo11n_coco_state_dict.pt", ("yolo11", 0.5, 0.25)),
    ],
)
def test_real_weights_fit_their_families(shared_dir: Path, file: str, student: tuple[Any, ...]) -> None:
    build = yaml_student if len(student) > 1 else timm_student
    fit = fit_weights(read_weights(shared_dir / "weights" / file), build(*student))
    assert fit.backbone == 1.0 and fit.belongs


def test_networks_of_one_family_are_related_whatever_their_size() -> None:
    small, large = yaml_student("yolov8", 0.33, 0.0625).model, yaml_student("yolov8", 0.67, 0.25).model
    assert related(small, large) == related(large, small) == 1.0
    for stranger in (yaml_student("yolov5", 0.33, 0.125).model, yaml_student("yolo11", 0.5, 0.125).model):
        assert related(stranger, small) < 0.9
    assert related(tiny_student("mobilenetv3").model, small) < 0.3
