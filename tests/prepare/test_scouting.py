"""Untrained students are measured all over the space, within their time, and each structure once."""

import pickle

import pytest
from small import NAMES

from nasdistill.devices.profile import DeviceProfile
from nasdistill.prepare import scouting
from nasdistill.prepare.scouting import MOST, scout_points, scout_tasks
from nasdistill.space.loader import load_space
from nasdistill.space.parse import parse_space
from nasdistill.space.search_space import SearchSpace

DEVICES = (
    DeviceProfile(name="quick", runtime="onnxruntime"),
    DeviceProfile(name="other", runtime="onnxruntime", threads=2),
)


@pytest.fixture
def space() -> SearchSpace:
    families = "yolov5: {depth: 0.33, width: [0.0625, 0.125]}, mobilenetv3: {variant: small_050, neck: 32}"
    return parse_space(
        f"name: a\nfamilies: {{{families}}}\nimage_size: [64, 96]\nprune: {{ratio: [0.0, 0.5]}}\n", "a.yaml"
    )


def test_points_are_different_students_of_all_families() -> None:
    space = load_space("edge-default")
    points = scout_points(space, seed=3)
    assert len(points) == MOST and points == scout_points(space, seed=3) != scout_points(space, seed=4)
    drawn = [point["family"] for point in points]
    assert all(drawn.count(family) > MOST / 6 for family in space.families)
    configs = [space.config(point) for point in points]
    built = {(c.family, tuple(sorted(c.arch.items())), c.image_size, c.prune_ratio) for c in configs}
    assert len(built) == len(points)


def test_a_small_space_has_few(space: SearchSpace) -> None:
    assert len(scout_points(space, seed=0)) == 12  # three structures at two sizes, pruned or not


def test_costs_are_those_of_the_pruned_export_on_every_device(space: SearchSpace) -> None:
    point = space.complete({"family": "yolov5", "yolov5.width": 0.125, "image_size": 96, "prune.ratio": 0.0})
    pruned = {**point, "prune.ratio": 0.5}
    tasks = scout_tasks([point, pruned], space, NAMES, DEVICES, seconds=60.0, workers=2)
    found = [one for task in pickle.loads(pickle.dumps(tasks)) for one in task(lambda text: None)]
    assert [one.params for one in found] == [point, pruned]
    whole, cut = (one.figures for one in found)
    assert {"latency_ms", "latency_ms@other", "params_m", "gflops", "size_mb"} <= set(whole)
    assert all(value > 0 for value in whole.values())
    assert cut["params_m"] < 0.7 * whole["params_m"] and cut["gflops"] < 0.7 * whole["gflops"]


def test_the_time_is_kept_and_what_cannot_be_built_is_left_out(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = scout_points(space, seed=0)
    (task,) = scout_tasks(points, space, NAMES, DEVICES[:1], seconds=1e-6, workers=1)
    assert len(task(lambda text: None)) <= 1

    def broken(*given: object) -> None:
        raise RuntimeError("no such shape")

    monkeypatch.setattr(scouting, "write_onnx", broken)
    (task,) = scout_tasks(points[:2], space, NAMES, DEVICES[:1], seconds=60.0, workers=1)
    assert task(lambda text: None) == []
