"""When two points of a space are one and the same trial: settings that round to the same student, or that nothing reads.

A trial is a student and the way it is taught. Widths and depths are multipliers, rounded to whole channels and blocks; and
many a setting only counts when another one is on: which feature loss it is, say, when features weigh nothing. No search
should train such a pair twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from nasdistill.records import Scalar
from nasdistill.space.rounding import CHANNEL_MULTIPLE, channels_of, pruning_factors, repeats_of

YOLO_CHANNELS = (64, 128, 256, 512, 1024)
"""Channels at width 1 of all layers that Ultralytics' model files list, of the first one alone in front; a test holds
them against the files."""
YOLO_REPEATS = {"yolov5": (3, 6, 9), "yolov8": (3, 6), "yolo11": (2,), "yolo26": (1, 2)}
DYNAMIC_CONV_CHANNELS = (16, 32, 64, 128, 256)
_STAGE_WIDTHS = ("width_p2", "width_p3", "width_p4", "width_p5")
_WEIGHTS = ("weight.feature", "weight.cls", "weight.box", "weight.detections")
_TEMPERATURE = ("temperature.start", "temperature.end", "temperature.schedule")
_PRUNED_STAGES = ("early", "backbone", "neck", "head")


def canonical(params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The flat `params` of one complete point, less what makes no difference; equal for points that are the same trial.

    What can't be told from the parameters alone (two pruning ratios that leave the same channels) counts as different.
    """
    found = dict(params)
    family = str(params.get("family", ""))
    if family in YOLO_REPEATS:
        _round_yolo(found, family)
    elif family == "dynamicconv" and "dynamicconv.width" in found:
        found["dynamicconv.width"] = _channels(DYNAMIC_CONV_CHANNELS, float(found["dynamicconv.width"]))
    _leave_out_idle_losses(found)
    _leave_out_idle_pruning(found)
    if found.get("stages.stage1_share") == 0:
        found.pop("stages.stage1_learning_rate", None)
        found.pop("stages.stage1_label_weight", None)
    return found


def _round_yolo(found: dict[str, Scalar], family: str) -> None:
    """Every width as the channels it gives, every depth as the blocks."""
    width, depth = found.get(f"{family}.width"), found.get(f"{family}.depth")
    least = int(found.pop(f"{family}.least_channels", CHANNEL_MULTIPLE))
    if depth is not None:
        repeats = (repeats_of(full, float(depth)) for full in YOLO_REPEATS[family])
        found[f"{family}.depth"] = " ".join(map(str, repeats))
    if width is None:
        return
    found[f"{family}.width"] = _channels(YOLO_CHANNELS[:1], float(width), least // 2)  # of the first convolution
    for name, floor in (*((stage, least) for stage in _STAGE_WIDTHS), ("neck_width", 0)):
        share = float(found.get(f"{family}.{name}", 1.0))
        found[f"{family}.{name}"] = _channels(YOLO_CHANNELS[1:], float(width) * share, floor)


def _channels(full: tuple[int, ...], multiplier: float, least: int = 0) -> str:
    """What each of `full` becomes; one that would round to zero is no layer of a student that can be built."""
    return " ".join(str(max(channels_of(count, multiplier), least)) for count in full if count * multiplier >= 4)


def _leave_out_idle_losses(found: dict[str, Scalar]) -> None:
    # The default of each weight is above 0, but for that of detections; so only a 0 that is there counts.
    if found.get("weight.feature") == 0:
        found.pop("feature_loss", None)
        found.pop("connector", None)
    if found.get("weight.cls") == 0:
        found.pop("cls_loss", None)
    if found.get("weight.box") == 0:
        found.pop("box_loss", None)
        found.pop("box_where", None)
    if all(found.get(name) == 0 for name in _WEIGHTS):
        for name in ("participation", "schedule"):
            found.pop(name, None)
        if not found.get("stages.stage1_label_weight"):  # then there is no stage 1 (`trial.py`)
            found["stages.stage1_share"] = 0.0
    reads_classes = found.get("weight.cls") != 0 and found.get("cls_loss") != "bckd"
    reads_bins = found.get("weight.box") != 0 and found.get("box_loss", "l1_giou") != "l1_giou"
    if not reads_classes and not reads_bins:
        for name in _TEMPERATURE:
            found.pop(name, None)
    start, end = found.get("temperature.start"), found.get("temperature.end")
    if found.get("temperature.schedule") == "constant":
        found.pop("temperature.end", None)
    elif start is not None and start == end:
        found.pop("temperature.end")
        found["temperature.schedule"] = "constant"


def _leave_out_idle_pruning(found: dict[str, Scalar]) -> None:
    """The ratio times each stage's factor is what is cut out."""
    ratio = found.pop("prune.ratio", None)
    if ratio is None:
        return
    factors = pruning_factors(**{stage: float(found.get(f"prune.{stage}", 1.0)) for stage in _PRUNED_STAGES})
    asked = {f"prune.{stage}": float(ratio) * factor for stage, factor in factors.items()}
    found.update(asked)
    if not any(asked.values()):
        found.pop("prune.importance", None)
