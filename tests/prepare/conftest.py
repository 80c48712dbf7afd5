"""Inputs of the embedded demo, with a small untrained teacher and two input sizes."""

from pathlib import Path

import pytest
from small import NAMES, small_teacher

from nasdistill.data.dataset import dataset_hash, load_dataset
from nasdistill.devices.profile import DeviceProfile
from nasdistill.prepare.inputs import Inputs, lineages
from nasdistill.space.parse import parse_space

SPACE = "name: a\nfamilies: {yolov5: {depth: 0.33, width: 0.0625}}\nimage_size: [64, 96]\n"


@pytest.fixture(scope="module")
def inputs(demo_yaml: Path) -> Inputs:
    dataset, space = load_dataset(demo_yaml), parse_space(SPACE, "a.yaml")
    return Inputs(
        dataset=dataset,
        data_hash=dataset_hash(dataset),
        teacher=small_teacher(),
        class_order=tuple(range(len(NAMES))),
        space=space,
        devices=(DeviceProfile(name="quick", runtime="onnxruntime"),),
        image_sizes=(64, 96),
        lineages=tuple(lineages(space, dataset.names)),
        demo=False,
    )
