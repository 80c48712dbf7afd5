"""The channel graph against Torch-Pruning's own where that one works, and operation by operation."""

import pytest
import torch
import torch_pruning
from small import tiny_student
from torch import nn
from ultralytics.nn.modules import Conv
from zoo import timm_student, yaml_student

from nasdistill.students.channels import trace_channels
from nasdistill.students.importance import channel_scores, places_of_groups
from nasdistill.students.student import Student


@pytest.mark.parametrize("family", ["yolov5", "mobilenetv3"])
def test_the_groups_are_those_of_torch_prunings_graph(family: str) -> None:
    student = tiny_student(family)
    model = student.model.eval().requires_grad_(True)
    theirs = torch_pruning.DependencyGraph().build_dependency(
        model,
        torch.zeros(1, 3, 64, 64),
        output_transform=lambda output: [output[1]["boxes"], output[1]["scores"]],
        verbose=False,
    )
    names = {id(module): name for name, module in model.named_modules()}
    graph = trace_channels(model)
    places = places_of_groups(graph)
    checked = 0
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.groups > 1 or f"{name}.weight" not in graph.axes:
            continue
        group = graph.axes[f"{name}.weight"][0][0].group
        if group in graph.locked:
            continue
        expected = set()
        for item in theirs.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, [0]):
            module = item.dep.target.module
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                reads = item.dep.handler.__name__ == "prune_in_channels" and isinstance(module, nn.Conv2d)
                axis = 1 if reads and module.groups == 1 else 0
                expected |= {(f"{names[id(module)]}.weight", axis, index) for index in item.idxs}
        ours = {(place.tensor, place.axis, place.start) for place in places[group] if place.tensor.endswith("weight")}
        assert ours == expected, name
        checked += 1
    assert checked > 30


@pytest.mark.parametrize("timm_name", ["ghostnet_050", "mobilevitv2_050", "efficientnet_cc_b0_4e"])
def test_every_followed_axis_is_covered_and_the_model_is_untouched(timm_name: str) -> None:
    student = timm_student(timm_name)
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    graph = trace_channels(student.model)
    after = student.model.state_dict()
    for name, axes in graph.axes.items():
        assert tuple(sum(run.size for run in runs) for runs in axes) == before[name].shape[: len(axes)]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert graph.prunable()


class Block(nn.Module):
    """Sixteen channels through one operation, with convolutions before and after it."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.before, self.after, self.operation = Conv(3, 16, 3, 8), Conv(16, 32, 1), operation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.before(images)
        if self.operation == "shuffle":
            x = x.view(len(x), 2, 8, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        elif self.operation == "halves":
            one, two = x.chunk(2, 1)
            x = torch.cat([two, one], 1)
        elif self.operation == "uneven":
            one, two = x.split((4, 12), 1)
            x = torch.cat([one, two], 1)
        elif self.operation == "gate":
            x = x * x.mean((2, 3), keepdim=True).sigmoid()
        elif self.operation == "spatial gate":
            x = x * x.mean(1, keepdim=True).sigmoid()
        return self.after(x)


def student_with(operation: str) -> Student:
    """A student whose backbone is one block."""
    student = tiny_student("mobilenetv3")
    block = Pyramid(Block(operation))
    block.i, block.f, block.type = 0, -1, "Pyramid"
    student.model.model[0] = block
    for layer in (4, 5, 6):
        old, new = student.model.model[layer], Conv(32, 32, 1)
        new.i, new.f, new.type = old.i, old.f, old.type
        student.model.model[layer] = new
    return student


class Pyramid(nn.Module):
    """Three levels of one block's output."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.block(images)
        return [nn.functional.avg_pool2d(maps, size) for size in (1, 2, 4)]


@pytest.mark.parametrize(
    ("operation", "runs", "locked", "fixed"),
    [
        ("none", (16,), False, False),
        ("shuffle", (16,), True, False),
        ("halves", (8, 8), False, False),
        ("uneven", (4, 12), False, True),
        ("gate", (16,), False, False),
        ("spatial gate", (16,), False, False),
    ],
)
def test_each_operation_says_what_may_happen_to_its_channels(
    operation: str, runs: tuple[int, ...], locked: bool, fixed: bool
) -> None:
    student = student_with(operation)
    graph = trace_channels(student.model)
    made = graph.axes["model.0.block.before.conv.weight"][0]
    assert tuple(run.size for run in made) == runs
    assert all((run.group in graph.locked) == locked and (run.group in graph.fixed) == fixed for run in made)
    read = graph.axes["model.0.block.after.conv.weight"][1]
    if operation == "halves":
        assert [run.group for run in read] == [run.group for run in reversed(made)]
    # how many channels a mean over channels sees changes what it is; their order does not
    assert any("mean" in place for place in graph.unfollowed) == (operation == "spatial gate")


def test_layers_that_do_not_fit_are_an_error() -> None:
    student = student_with("none")
    student.model.model[0].block.after.conv = nn.Conv2d(12, 32, 1)
    with pytest.raises(RuntimeError):
        trace_channels(student.model)


def test_taylor_needs_gradients() -> None:
    student = yaml_student("yolov8", 0.33, 0.0625)
    places = next(iter(places_of_groups(trace_channels(student.model)).values()))
    with pytest.raises(ValueError, match="needs gradients"):
        channel_scores(places, student.model.state_dict(), "taylor")
