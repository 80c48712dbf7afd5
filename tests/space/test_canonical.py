"""Points that are the same trial have the same canonical form, and no others do."""

import random

import pytest
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import ROOT

from nasdistill.space.canonical import YOLO_CHANNELS, YOLO_REPEATS, canonical
from nasdistill.students.families import build_student
from nasdistill.students.yolo import DESCRIPTIONS

LABELS_ALONE = {"weight.feature": 0.0, "weight.cls": 0.0, "weight.box": 0.0, "weight.detections": 0.0}
BASE = {"family": "yolov5", "yolov5.depth": 0.33, "yolov5.width": 0.125, "image_size": 256, "prune.ratio": 0.2}


@pytest.mark.parametrize("family", DESCRIPTIONS)
def test_the_numbers_rounded_are_those_of_ultralytics_files(family: str) -> None:
    description = yaml_model_load(ROOT / "cfg/models" / DESCRIPTIONS[family])
    rows = [
        row
        for row in description["backbone"] + description["head"]
        if row[2] not in ("nn.Upsample", "Concat", "Detect")
    ]
    first, *others = (min(row[3][0], 1024) for row in rows)
    assert first == YOLO_CHANNELS[0] and set(others) <= set(YOLO_CHANNELS[1:])
    assert {row[1] for row in rows} - {1} <= set(YOLO_REPEATS[family])


@pytest.mark.parametrize("family", [*YOLO_REPEATS, "dynamicconv"])
def test_same_form_means_same_student(family: str) -> None:
    """Random neighbours: where the forms are equal the shapes are, and some forms are equal."""
    rng = random.Random(family)
    equal = different = 0
    for _ in range(12):
        if family == "dynamicconv":
            one = {"width": rng.uniform(0.2, 0.5), "depth": 1, "neck": 32}
            other = {**one, "width": float(one["width"]) + rng.choice([0.001, 0.2])}
        else:
            one = {"width": rng.uniform(0.1, 0.2), "depth": rng.uniform(0.3, 0.6), "neck_width": rng.uniform(0.5, 1.0)}
            one["least_channels"] = rng.choice([8, 16, 32])
            other = {**one, rng.choice(["depth", "neck_width", "width"]): rng.uniform(0.3, 0.6)}
            if rng.random() < 0.6:
                other = {**one, "width": float(one["width"]) * 1.0005, "depth": float(one["depth"]) * 1.001}
            if rng.random() < 0.3:
                other = {**one, "least_channels": rng.choice([8, 16, 24])}
        forms = [
            canonical({"family": family, **{f"{family}.{k}": v for k, v in arch.items()}}) for arch in (one, other)
        ]
        if forms[0] == forms[1]:
            shapes = [
                {name: tensor.shape for name, tensor in build_student(family, arch, ["a"]).model.state_dict().items()}
                for arch in (one, other)
            ]
            assert shapes[0] == shapes[1], (one, other)
            equal += 1
        else:
            different += 1
    assert equal >= 2 and different >= 2


@pytest.mark.parametrize(
    ("same", "other"),
    [
        ({"yolov5.depth": 0.34}, {"yolov5.depth": 0.36}),
        ({"yolov5.least_channels": 16}, {}),
        ({"weight.feature": 0.0, "feature_loss": "cwd"}, {"weight.feature": 0.0, "feature_loss": "pkd"}),
        ({"weight.box": 0.0, "box_loss": "ld"}, {"weight.box": 0.0, "box_loss": "l1_giou"}),
        ({"weight.cls": 0.0, "cls_loss": "kl"}, {"weight.cls": 0.0, "cls_loss": "bckd"}),
        ({"cls_loss": "bckd", "temperature.start": 2.0}, {"cls_loss": "bckd", "temperature.start": 3.0}),
        ({"weight.cls": 0.0, "temperature.start": 2.0}, {"weight.cls": 0.0, "temperature.start": 3.0}),
        ({"prune.ratio": 0.0, "prune.importance": "l2"}, {"prune.ratio": 0.0, "prune.importance": "taylor"}),
        ({"prune.early": 0.0, "prune.backbone": 0.0}, {"prune.early": 1.0, "prune.backbone": 0.0}),
        ({"prune.ratio": 0.2, "prune.neck": 0.5}, {"prune.ratio": 0.2, "prune.neck": 0.5, "prune.head": 1.0}),
        ({"stages.stage1_share": 0.0, "stages.stage1_learning_rate": 0.1}, {"stages.stage1_share": 0.0}),
        ({**LABELS_ALONE, "stages.stage1_share": 0.3}, {**LABELS_ALONE, "stages.stage1_share": 0.1}),
        (
            {"temperature.start": 2.0, "temperature.schedule": "constant", "temperature.end": 1.0},
            {"temperature.start": 2.0, "temperature.schedule": "linear", "temperature.end": 2.0},
        ),
    ],
)
def test_what_nothing_reads_makes_no_difference(same: dict[str, object], other: dict[str, object]) -> None:
    assert canonical({**BASE, **same}) == canonical({**BASE, **other})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "change",
    [
        {"yolov5.depth": 0.67},
        {"yolov5.width": 0.25},
        {"yolov5.least_channels": 32},
        {"image_size": 320},
        {"prune.ratio": 0.3},
        {"prune.head": 0.5},
        {"prune.early": 0.0},
        {"prune.importance": "taylor"},
        {"feature_loss": "cwd"},
        {"weight.feature": 0.0},
        {"temperature.start": 2.0},
        {"stages.stage1_share": 0.0},
    ],
)
def test_what_is_read_makes_a_difference(change: dict[str, object]) -> None:
    assert canonical({**BASE, **change}) != canonical(BASE)  # type: ignore[dict-item]
