"""A trial's slice starts usable: statistics of its own, fitted to the teacher's answers where there are some."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, NAMES, opinionated, small_feed, small_teacher
from timm.layers import DropPath
from torch import nn

from nasdistill.distill.batchnorm import BATCH_SIZE, BATCHES, recalibrate
from nasdistill.distill.feed import Feed
from nasdistill.distill.inherit import adapt
from nasdistill.students.families import build_student
from nasdistill.students.refit import ask, refit, rows_kept, views_to_ask
from nasdistill.students.slicing import load_slice, plan_slices

LARGE, SMALL = {"depth": 0.33, "width": 0.1875}, {"depth": 0.33, "width": 0.0625}


@pytest.fixture(scope="module")
def feed(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return small_feed(demo_yaml, tmp_path_factory.mktemp("inherit"), small_teacher())


def test_weights_are_the_slice_and_statistics_an_average_over_batches(feed: Feed) -> None:
    supernet, small = build_student("yolov5", LARGE, NAMES), build_student("yolov5", SMALL, NAMES)
    state = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
    adapt(small, load_slice(state, supernet.model, small.model), feed, CPU)
    first = small.model.model[0]
    width = first.conv.out_channels
    assert torch.equal(first.conv.weight, state["model.0.conv.weight"][:width])
    means, variances = [], []
    for indices in feed.indices(BATCHES, BATCH_SIZE, seed=0):
        maps = first.conv(feed.batch(indices, CPU.device).images).transpose(0, 1).flatten(1)
        means.append(maps.mean(dim=1))
        variances.append(maps.var(dim=1))
    assert torch.allclose(first.bn.running_mean, torch.stack(means).mean(dim=0), atol=1e-5)
    assert torch.allclose(first.bn.running_var, torch.stack(variances).mean(dim=0), rtol=1e-3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in supernet.model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "large", "small"),
    [
        ("yolov5", LARGE, SMALL),
        ("mobilenetv3", {"variant": "small_075", "neck": 48}, {"variant": "small_050", "neck": 32}),
        ("efficientnet_lite0", {"neck": 48}, {"neck": 32}),
    ],
)
def test_every_family_starts_finite_with_its_own_momentum(feed: Feed, name: str, large: dict, small: dict) -> None:
    supernet, student = build_student(name, large, NAMES), build_student(name, small, NAMES, seed=1)
    momenta = [norm.momentum for norm in student.model.modules() if isinstance(norm, nn.BatchNorm2d)]
    adapt(student, load_slice(supernet.model.state_dict(), supernet.model, student.model), feed, CPU)
    assert all(torch.isfinite(tensor).all() for tensor in student.model.state_dict().values())
    norms = [norm for norm in student.model.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == momenta
    assert all(int(norm.num_batches_tracked) == BATCHES for norm in norms)
    batch = feed.batch(np.arange(8), CPU.device)
    with torch.no_grad():
        output = student.model.eval()(batch.images)[1]
    assert torch.isfinite(output["scores"]).all() and output["scores"].std() > 0


def test_what_is_scored_is_averaged_over_light_views(feed: Feed) -> None:
    heavy = np.arange(len(feed.views)) % 2 == 0
    shown = []

    class Mixed(Feed):
        def images(self, indices: np.ndarray, device: torch.device) -> torch.Tensor:
            shown.append(indices)
            return super().images(indices, device)

    mixed = Mixed(dataclasses.replace(feed.views, closing=~heavy), None)
    student = build_student("yolov5", SMALL, NAMES)
    recalibrate(student, mixed, CPU)
    assert heavy[np.concatenate(shown)].any()
    shown.clear()
    recalibrate(student, mixed, CPU, light=True)
    assert len(shown) == BATCHES and not heavy[np.concatenate(shown)].any()


def test_a_slice_is_fitted_to_answers_and_keeps_statistics_of_its_own(feed: Feed) -> None:
    whole, small = build_student("yolov5", LARGE, NAMES), build_student("yolov5", SMALL, NAMES, seed=1)
    opinionated(whole.model)
    plan = load_slice(whole.model.state_dict(), whole.model, small.model)
    by_hand = copy.deepcopy(small)
    images = feed.images(views_to_ask(len(feed.views), feed.image_size), CPU.device)
    answers = ask(whole.model, images, rows_kept(plan_slices(whole.model, whole.model), whole.model))
    adapt(small, plan, feed, CPU, answers)
    assert refit(by_hand.model, images, answers, rows_kept(plan, by_hand.model))
    recalibrate(by_hand, feed, CPU)
    state = by_hand.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.model.state_dict().items())


def test_statistics_are_those_of_the_network_that_is_exported(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the branches that stochastic depth leaves out at random: the same whatever was drawn before."""
    monkeypatch.setattr("nasdistill.distill.batchnorm.BATCHES", 1)
    student = build_student("tinyvit", {"variant": "5m", "neck": 16}, NAMES)
    blocks = [module for module in student.model.modules() if hasattr(module, "drop_path1")]
    for block in blocks:
        block.drop_path1 = DropPath(0.5)  # as the larger variants have it
    assert blocks
    found = []
    for seed in (1, 2):
        twin = dataclasses.replace(student, model=copy.deepcopy(student.model))
        torch.manual_seed(seed)
        recalibrate(twin, feed, CPU)
        found.append([norm.running_var for norm in twin.model.modules() if isinstance(norm, nn.BatchNorm2d)])
    assert all(map(torch.equal, *found))
