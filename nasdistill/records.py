"""What flows between the parts: a trial's configuration, its latency and its result.

Plain frozen data, no torch. Names carry units: `_ms` milliseconds, `_mj` millijoule, `_m` millions, `_mb` 10^6 bytes; mAP
is 0..1. A figure of a further device is named after it: `latency_ms@phone`; without `@` it is of the run's main device.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = str | int | float | bool
TrialState = Literal["complete", "stopped", "rejected", "failed"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
FeatureLoss = Literal["channel_attention", "cbam", "cwd", "pkd", "mgd", "score_weighted"]
BoxLoss = Literal["l1_giou", "ld", "l1_giou_ld"]
BoxWhere = Literal["everywhere", "better"]
ClsLoss = Literal["kl", "bckd"]
Participation = Literal["none", "complexity", "error", "both"]
ViewsName = Literal["plain", "heavy"]
CacheKind = Literal["auto", "full", "sparse", "online"]
WeightSchedule = Literal["constant", "cosine", "off_at_end"]
Connector = Literal["conv", "conv_bn"]
TemperatureSchedule = Literal["constant", "linear", "cosine"]
Importance = Literal["l2", "bn_scale", "taylor"]
Precision = Literal["auto", "float32", "bfloat16"]

ADDED_PARAMS = ("init", "prune.achieved")
"""What a result's parameters tell beyond those of the search space: the starting weights, and how much was pruned."""

DEVICE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
DEVICE_FIGURES = ("latency_ms", "latency_p90_ms", "energy_mj")
"""What is measured of a student on a device, per batch."""
MODEL_FIGURES = ("params_m", "gflops", "size_mb")
"""What a student costs wherever it runs."""
FurtherFigure = Annotated[str, Field(pattern=f"^({'|'.join(DEVICE_FIGURES)})@{DEVICE_NAME}$")]
Further = dict[FurtherFigure, Finite]
"""Figures of further devices by name."""


class Record(BaseModel):
    """Base of all records: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrialConfig(Record):
    """Everything that tells one trial from another: the student's architecture and how it is distilled.

    `arch` holds the family's own parameters (yolov5: `depth`, `width`; timm families: `variant`, `neck`), as named in the
    search space; those left out have the defaults of `space.families`. `image_size` is the square input in pixels, a multiple
    of 32. `prune_backbone`, `prune_neck` and `prune_head` multiply `prune_ratio` in their stage, `prune_early` that of the
    backbone's first layers once more; all at 1 prunes uniformly.
    """

    family: str
    arch: dict[str, Scalar]
    image_size: Annotated[int, Field(ge=32, multiple_of=32)]
    temperature_start: Annotated[float, Field(ge=0.1, le=100.0)] = 3.0
    temperature_end: Annotated[float, Field(ge=0.1, le=100.0)] = 1.0
    temperature_schedule: TemperatureSchedule = "linear"
    feature_loss: FeatureLoss = "channel_attention"
    connector: Connector = "conv"
    cls_loss: ClsLoss = "kl"
    box_loss: BoxLoss = "l1_giou"
    box_where: BoxWhere = "everywhere"
    participation: Participation = "none"
    weight_schedule: WeightSchedule = "constant"
    weight_feature: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0
    weight_cls: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0
    weight_box: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0
    weight_detections: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.0
    prune_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    prune_importance: Importance = "l2"
    prune_early: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    prune_backbone: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    prune_neck: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    prune_head: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    stage1_share: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """This and the following: the run's recipe says it where it is None."""
    stage1_learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    stage1_label_weight: Annotated[float, Field(ge=0.0, le=1000.0)] | None = None
    stage2_learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    stage2_label_weight: Annotated[float, Field(ge=0.0, le=1000.0)] | None = None
    closing_share: Annotated[float, Field(ge=0.0, le=1.0)] | None = None


class Scouted(Record):
    """A complete point of a search space, and the costs by name that its untrained student was measured to have."""

    params: dict[str, Scalar]
    figures: dict[str, float]


class LatencyStats(Record):
    """One latency measurement of one artifact on one device; times in milliseconds per batch.

    `cv` is the coefficient of variation of the kept samples; `disturbed` says that the machine was busy enough to
    doubt the figure (the first and second half of the samples disagree, or `cv` is large). `energy_mj` is what the whole
    processor took for a batch, in millijoule, None where the device does not report it.
    """

    device: str
    median_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    p90_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    min_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    cv: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    samples: Annotated[int, Field(ge=1)]
    disturbed: bool = False
    energy_mj: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


def fields_of(figures: Mapping[str, float]) -> dict[str, Any]:
    """Figures by name as the fields of a record: those of further devices together."""
    plain: dict[str, Any] = {name: value for name, value in figures.items() if "@" not in name}
    return plain | {"further": {name: value for name, value in figures.items() if "@" in name}}


class Measured(Record):
    """Base of what has figures: those of further devices are in `further`."""

    further: Further = Field(default_factory=dict)

    def figure(self, name: str) -> float | None:
        """The figure of that name, such as `map50`, `params_m` or `latency_ms@phone`; None where it is not known."""
        value: float | None = self.further.get(name) if "@" in name else getattr(self, name)
        return value

    def costs(self) -> dict[str, float]:
        """All costs that are known, by name."""
        named = {name: self.figure(name) for name in (*DEVICE_FIGURES, *MODEL_FIGURES)}
        return {name: value for name, value in named.items() if value is not None} | self.further


class RungScore(Measured):
    """What a trial scored on its way, at the end of epoch `epochs`: accuracy so far, and costs, which are final.

    `rung` counts from 0; `fidelity` (0 < f < 1) is the share of the trial's length. Not finite is refused here.
    """

    trial: Annotated[int, Field(ge=0)]
    rung: Annotated[int, Field(ge=0)]
    epochs: Annotated[int, Field(ge=1)]
    fidelity: Annotated[float, Field(gt=0.0, lt=1.0)]
    map50: Finite
    map50_95: Finite
    latency_ms: Finite
    latency_p90_ms: Finite
    params_m: Finite
    gflops: Finite
    size_mb: Finite
    energy_mj: Finite | None = None
    confidence: Finite | None = None
    seconds: Annotated[float, Field(ge=0.0)] = 0.0
    """Of the whole trial so far, this score included."""


class TrialResult(Measured):
    """The outcome of one trial: a row of `trials.csv`.

    A `complete` trial has finite accuracy and latency (anything else is refused here, at the boundary); a `failed`,
    `rejected` or `stopped` one has a `reason` and is never on the front. `fidelity` (0 < f <= 1) is the share of the
    run's full trial length that the score has seen.
    """

    trial: Annotated[int, Field(ge=0)]
    state: TrialState
    family: str
    fidelity: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    map50: Finite | None = None
    map50_95: Finite | None = None
    latency_ms: Finite | None = None
    latency_p90_ms: Finite | None = None
    params_m: Finite | None = None
    gflops: Finite | None = None
    size_mb: Finite | None = None
    energy_mj: Finite | None = None
    confidence: Finite | None = None
    """Where detections are best cut in use (see `measure.accuracy.Accuracy`)."""
    epochs: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0.0)] = 0.0
    reason: str = ""
    repeats_map50: tuple[Finite, ...] = ()
    """Scores of the same configuration trained again with other seeds, in the order of the seeds. The fields above belong
    to the one artifact that is kept; these only say how far chance moves them."""
    repeats_map50_95: tuple[Finite, ...] = ()
    params: dict[str, Scalar] = Field(default_factory=dict)
    """Flat parameters as the search space names them (`family`, `yolov5.width`, `image_size`, …) and what the trial adds
    itself: `init` (where its weights came from) and `prune.achieved`."""

    @model_validator(mode="after")
    def _complete_means_scored(self) -> "TrialResult":
        if self.state == "complete":
            for name in ("map50", "map50_95", "latency_ms"):
                value = getattr(self, name)
                if value is None or not math.isfinite(value):
                    raise ValueError(f"a complete trial needs a finite {name}, got {value}")
        elif not self.reason:
            raise ValueError(f"a {self.state} trial needs a reason")
        if len(self.repeats_map50) != len(self.repeats_map50_95):
            raise ValueError("repeats_map50 and repeats_map50_95 are not equally many")
        return self


class RepeatScore(Record):
    """What is kept of a trial's configuration trained once more with another seed: its score, no artifact."""

    trial: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]
    map50: Finite
    map50_95: Finite
    epochs: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0.0)] = 0.0
