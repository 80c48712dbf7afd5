"""What is cut out of a network is fitted to it: against an ordinary solver, and by how much of a real teacher is left."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, NAMES, images_of, randomise_norms, raw_heads
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel

from nasdistill.data.dataset import load_dataset
from nasdistill.data.views import letterboxed_split, open_views
from nasdistill.prepare.inputs import DEMO_TEACHER
from nasdistill.students import refit as refitting
from nasdistill.students.families import build_student
from nasdistill.students.importance import sorted_by_importance
from nasdistill.students.refit import Answers, ask, refit, rows_kept, views_to_ask
from nasdistill.students.slicing import load_slice
from nasdistill.students.student import Student
from nasdistill.teacher.teacher import load_teacher

SLICED = {
    "yolov5": ({"depth": 0.67, "width": 0.25}, {"depth": 0.33, "width": 0.125}),
    "yolov8": ({"depth": 0.67, "width": 0.25}, {"depth": 0.33, "width": 0.125}),
    "yolo11": ({"depth": 1.0, "width": 0.25}, {"depth": 0.5, "width": 0.125}),
    "yolo26": ({"depth": 1.0, "width": 0.25}, {"depth": 0.5, "width": 0.125}),
}
SIZE = 128


@pytest.fixture(scope="module")
def boards(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Demo boards, (n, 3, 128, 128) each: those to fit to, and others."""
    data, folder = load_dataset(demo_yaml), tmp_path_factory.mktemp("boards")
    found = {}
    for split in ("train", "val"):
        letterboxed_split(data.splits[split], data.names, SIZE, folder / split)
        found[split] = torch.from_numpy(open_views(folder / split).images[:].copy()).float() / 255.0
    return found


@pytest.fixture(scope="module")
def teacher() -> DetectionModel:
    """The embedded demo's, the most important channels first."""
    return sorted_by_importance(load_teacher(DEMO_TEACHER).model)


def cut(teacher: DetectionModel, depth: float, width: float) -> tuple[Student, dict[str, torch.Tensor]]:
    """A slice of the teacher, and which channels it has."""
    student = build_student("yolov5", {"depth": depth, "width": width}, NAMES)
    plan = load_slice(teacher.state_dict(), teacher, student.model)
    return student, rows_kept(plan, student.model)


def fit(model: nn.Module, images: torch.Tensor, answers: Answers) -> list[str]:
    """All that was answered is the model's own."""
    return refit(model, images, answers, {name: torch.arange(said.shape[2]) for name, said in answers.said.items()})


def disagreement(model: nn.Module, whole: nn.Module, shown: torch.Tensor) -> float:
    """How far the scores are from those of the whole network, in standard deviations of these."""
    theirs = raw_heads(whole, shown)["scores"]
    return float((raw_heads(model, shown)["scores"] - theirs).pow(2).mean().sqrt() / theirs.std())


def errors(model: nn.Module, whole: nn.Module, rows: dict[str, torch.Tensor], shown: torch.Tensor) -> dict[str, float]:
    """Of each convolution: what it says wrong, as a share of what it should say (around its mean), in power."""
    said: dict[str, list[torch.Tensor]] = {}

    def keep(name: str) -> object:
        return lambda layer, args, output: said.setdefault(name, []).append(output)

    for network in (model, whole):
        layers = dict(network.named_modules())
        handles = [layers[name].register_forward_hook(keep(name)) for name in rows]
        with torch.no_grad():
            network.eval()(shown)
        for handle in handles:
            handle.remove()
    found = {}
    for name, (ours, theirs) in said.items():
        theirs = theirs[:, rows[name]]
        power = (theirs - theirs.mean(dim=(0, 2, 3), keepdim=True)).pow(2).sum()
        found[name] = float((ours - theirs).pow(2).sum() / power.clamp_min(1e-6))
    return found


def test_a_slice_of_a_real_teacher_says_more_of_what_the_teacher_says(teacher: DetectionModel, boards: dict) -> None:
    student, rows = cut(teacher, depth=0.33, width=0.1875)
    before = copy.deepcopy(student.model)
    assert len(fit(student.model, boards["train"], ask(teacher, boards["train"], rows))) == len(rows)
    plain, fitted = (errors(model, teacher, rows, boards["val"]) for model in (before, student.model))
    assert np.median(list(fitted.values())) < 0.6 * np.median(list(plain.values()))
    assert disagreement(student.model, teacher, boards["val"]) < 0.6 * disagreement(before, teacher, boards["val"])


def test_a_teacher_that_lost_nothing_stays_what_it_was(teacher: DetectionModel, boards: dict) -> None:
    twin, rows = cut(teacher, depth=0.33, width=0.25)
    assert fit(twin.model, boards["train"], ask(teacher, boards["train"], rows))
    assert disagreement(twin.model, teacher, boards["val"]) < 0.05  # answers are bfloat16


@pytest.mark.parametrize("family", sorted(SLICED))
def test_every_family_that_is_sliced_is_fitted(family: str, boards: dict) -> None:
    """Random networks have nothing in reserve that could stand in for what is cut: their own images must do."""
    large, small = (build_student(family, arch, NAMES, seed) for seed, arch in enumerate(SLICED[family]))
    randomise_norms(large.model)
    for student in (large, small):
        CPU.place(student.model)  # as they are in a search: depthwise convolutions have another class then
    rows = rows_kept(load_slice(large.model.state_dict(), large.model, small.model), small.model)
    before = copy.deepcopy(small.model)
    fitted = fit(small.model, boards["train"], ask(large.model, boards["train"], rows))
    plain, after = (errors(model, large.model, rows, boards["train"]) for model in (before, small.model))
    layers = dict(small.model.named_modules())
    assert any(layers[name].groups > 1 for name in fitted) == (family in ("yolo11", "yolo26"))
    assert set(fitted) == plain.keys()  # all that run: an NMS-free head asks one of its branches alone
    assert np.median(list(after.values())) < 0.8 * np.median(list(plain.values()))


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (5, 1, 8), (3, 2, 8)])
def test_one_layer_against_its_known_solution(
    kernel: int, stride: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refitting, "RIDGE", 0.0)
    torch.manual_seed(0)
    small, target = (nn.Sequential(Conv(8, 8, kernel, stride, g=groups)) for _ in range(2))
    shown = images_of(size=12, count=8)[:, :1].expand(-1, 8, -1, -1) + torch.randn(8, 8, 12, 12)
    for model in (small, target):
        model[0].bn.weight.data.uniform_(0.5, 1.5)
        model[0].bn.bias.data.normal_(0.0, 0.3)
        model.train()(shown)
    function = copy.deepcopy(small[0].bn).eval()
    with torch.no_grad():
        truth = target.eval()[0].conv(shown)
    assert fit(small, shown, ask(target, shown, {"0.conv": torch.arange(8)})) == ["0.conv"]
    torch.testing.assert_close(small[0].conv.weight, target[0].conv.weight, rtol=0.02, atol=0.02)
    with torch.no_grad():  # the norm is the same function, of what it read before, as it was
        torch.testing.assert_close(small.eval()(shown), nn.functional.silu(function(truth)), rtol=0.05, atol=0.05)
        reads = small[0].conv(shown)
    torch.testing.assert_close(small[0].bn.running_mean, reads.mean(dim=(0, 2, 3)), rtol=0.05, atol=0.02)
    torch.testing.assert_close(small[0].bn.running_var, reads.var(dim=(0, 2, 3)), rtol=0.1, atol=0.02)


def test_a_slice_takes_its_own_channels_from_the_answers_of_a_wider_one(teacher: DetectionModel, boards: dict) -> None:
    wide, wide_rows = cut(teacher, depth=0.33, width=0.1875)
    small, rows = cut(teacher, depth=0.33, width=0.125)
    twin = copy.deepcopy(small.model)
    of_wide = rows_kept(load_slice(wide.model.state_dict(), wide.model, small.model), small.model)
    refit(small.model, boards["train"], ask(teacher, boards["train"], wide_rows), of_wide)
    fit(twin, boards["train"], ask(teacher, boards["train"], rows))
    for name, tensor in small.model.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], msg=name)


def test_what_nothing_was_said_about_and_the_mode_stay(teacher: DetectionModel, boards: dict) -> None:
    student, rows = cut(teacher, depth=0.33, width=0.125)
    heard = {name: kept for name, kept in rows.items() if name != "model.3.conv"}
    before = copy.deepcopy(student.model.state_dict())
    student.model.train()
    fitted = fit(student.model, boards["train"], ask(teacher, boards["train"], heard))
    assert student.model.training and "model.3.conv" not in fitted and "model.4.cv1.conv" in fitted
    after = student.model.state_dict()
    for name in ("model.3.conv.weight", "model.3.bn.weight", "model.24.dfl.conv.weight"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["model.4.cv1.conv.weight"], after["model.4.cv1.conv.weight"])


def test_answers_are_the_same_for_the_same_seed_and_survive_a_file(teacher: DetectionModel, boards: dict) -> None:
    _, rows = cut(teacher, depth=0.33, width=0.125)
    first, second, other = (ask(teacher, boards["val"], rows, seed).tensors() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["places/model.1.conv"], other["places/model.1.conv"])
    back = Answers.of_tensors(first)
    assert back.tensors().keys() == first.keys() and back.said["model.1.conv"].dtype == torch.bfloat16


def test_black_images_leave_finite_weights(teacher: DetectionModel) -> None:
    student, rows = cut(teacher, depth=0.33, width=0.125)
    black = torch.zeros(4, 3, SIZE, SIZE)
    fit(student.model, black, ask(teacher, black, rows))
    assert all(torch.isfinite(tensor).all() for tensor in student.model.state_dict().values())


@pytest.mark.parametrize(("views", "size", "count"), [(6000, 256, 48), (6000, 640, 16), (6000, 320, 31), (40, 96, 40)])
def test_how_many_views_are_shown(views: int, size: int, count: int) -> None:
    shown = views_to_ask(views, size)
    assert len(shown) == count and shown[0] == 0 and shown[-1] < views and len(set(shown.tolist())) == count
