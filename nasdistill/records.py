"""What flows between the parts: a trial's configuration, its latency and its result.

Plain frozen data, no torch. Names carry units: `_ms` milliseconds, `_m` millions, `_mb` 10^6 bytes; mAP is 0..1.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = str | int | float | bool
TrialState = Literal["complete", "stopped", "rejected", "failed"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """Base of all records: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrialConfig(Record):
    """Everything that tells one trial from another: the student's architecture and how it is distilled.

    `arch` holds the family's own parameters (yolov5: `depth`, `width`; timm families: `variant`, `neck`), as named in the
    search space; those left out have the defaults of `space.families`. `image_size` is the square input in pixels, a
    multiple of 32.
    """

    family: str
    arch: dict[str, Scalar]
    image_size: Annotated[int, Field(ge=32, multiple_of=32)]
    temperature_start: Annotated[float, Field(ge=0.1, le=100.0)] = 3.0
    temperature_end: Annotated[float, Field(ge=0.1, le=100.0)] = 1.0
    temperature_schedule: Literal["constant", "linear", "cosine"] = "linear"
    feature_loss: Literal["channel_attention"] = "channel_attention"
    weight_feature: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0
    weight_cls: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0
    weight_box: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0
    prune_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class LatencyStats(Record):
    """One latency measurement of one artifact on one device; times in milliseconds per batch.

    `cv` is the coefficient of variation of the kept samples; `disturbed` says that the machine was busy enough to
    doubt the figure (the first and second half of the samples disagree, or `cv` is large).
    """

    device: str
    median_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    p90_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    min_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    cv: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    samples: Annotated[int, Field(ge=1)]
    disturbed: bool = False


class TrialResult(Record):
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
    epochs: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0.0)] = 0.0
    reason: str = ""
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
        return self
