"""A space of two families, two points of it, and complete trials there."""

from __future__ import annotations

from typing import Any

from nasdistill.records import TrialResult
from nasdistill.space.parse import parse_space

TEXT = """
name: small
families:
  yolov5: {depth: 0.33, width: {range: [0.0625, 0.25], step: 0.0625}}
  mobilenetv3: {variant: [small_050, small_075], neck: 32}
image_size: [128, 256]
"""
SPACE = parse_space(TEXT, "small.yaml")
ONE = {"family": "yolov5", "yolov5.width": 0.125, "image_size": 256}
TWO = {"family": "mobilenetv3", "mobilenetv3.variant": "small_075", "image_size": 128}


def complete_trial(number: int, params: dict[str, Any], epochs: int = 4) -> TrialResult:
    fields = {"map50": 0.5, "map50_95": 0.3, "latency_ms": 4.0, "fidelity": 1.0, "epochs": epochs}
    return TrialResult(trial=number, state="complete", family=params["family"], params=params, **fields)
