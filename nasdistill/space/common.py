"""The parameters every student has: where each stands in a search-space file, what it may be, and its trial setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from nasdistill.records import (
    BoxLoss,
    BoxWhere,
    ClsLoss,
    Connector,
    FeatureLoss,
    Importance,
    Participation,
    Scalar,
    TemperatureSchedule,
    TrialConfig,
    WeightSchedule,
)
from nasdistill.space.rules import OneOf, Real, Rule, Whole


@dataclass(frozen=True)
class CommonParameter:
    """`path`: its keys in the YAML file; `field`: its name in `TrialConfig`, whose default holds when left out."""

    path: tuple[str, ...]
    rule: Rule
    field: str

    @property
    def is_required(self) -> bool:
        """Whether a file must name it."""
        return TrialConfig.model_fields[self.field].is_required()

    @property
    def is_recipe(self) -> bool:
        """Whether it says how a student is taught, and nothing of what the student is."""
        return self.path[0] in ("distill", "stages")

    @property
    def default(self) -> Scalar | None:
        """The value when the file does not name it; None where the file must, or where the run's recipe then says it."""
        field = TrialConfig.model_fields[self.field]
        default: Scalar | None = None if field.is_required() else field.default
        return default


# By flat name, in the order of the trials table.
COMMON: dict[str, CommonParameter] = {
    # 32 is the coarsest stride of the detectors.
    "image_size": CommonParameter(("image_size",), Whole(32, 2048, multiple=32), "image_size"),
    "temperature.start": CommonParameter(("distill", "temperature", "start"), Real(0.1, 100.0), "temperature_start"),
    "temperature.end": CommonParameter(("distill", "temperature", "end"), Real(0.1, 100.0), "temperature_end"),
    "temperature.schedule": CommonParameter(
        ("distill", "temperature", "schedule"), OneOf(get_args(TemperatureSchedule)), "temperature_schedule"
    ),
    "feature_loss": CommonParameter(("distill", "feature_loss"), OneOf(get_args(FeatureLoss)), "feature_loss"),
    "connector": CommonParameter(("distill", "connector"), OneOf(get_args(Connector)), "connector"),
    "cls_loss": CommonParameter(("distill", "cls_loss"), OneOf(get_args(ClsLoss)), "cls_loss"),
    "box_loss": CommonParameter(("distill", "box_loss"), OneOf(get_args(BoxLoss)), "box_loss"),
    "box_where": CommonParameter(("distill", "box_where"), OneOf(get_args(BoxWhere)), "box_where"),
    "participation": CommonParameter(("distill", "participation"), OneOf(get_args(Participation)), "participation"),
    "schedule": CommonParameter(("distill", "schedule"), OneOf(get_args(WeightSchedule)), "weight_schedule"),
    "weight.feature": CommonParameter(("distill", "weights", "feature"), Real(0.0, 1000.0), "weight_feature"),
    "weight.cls": CommonParameter(("distill", "weights", "cls"), Real(0.0, 1000.0), "weight_cls"),
    "weight.box": CommonParameter(("distill", "weights", "box"), Real(0.0, 1000.0), "weight_box"),
    "weight.detections": CommonParameter(("distill", "weights", "detections"), Real(0.0, 1000.0), "weight_detections"),
    # Left out: the recipe's own.
    **{
        f"stages.{name}": CommonParameter(("stages", name), rule, name)
        for name, rule in {
            "stage1_share": Real(0.0, 1.0),
            "stage1_learning_rate": Real(1e-6, 0.1),
            "stage1_label_weight": Real(0.0, 1000.0),
            "stage2_learning_rate": Real(1e-6, 0.1),
            "stage2_label_weight": Real(0.0, 1000.0),
            "closing_share": Real(0.0, 1.0),
        }.items()
    },
    # Above 0.9 hardly a channel is left in the small students.
    "prune.ratio": CommonParameter(("prune", "ratio"), Real(0.0, 0.9), "prune_ratio"),
    "prune.importance": CommonParameter(("prune", "importance"), OneOf(get_args(Importance)), "prune_importance"),
    # What the ratio is multiplied by in a stage, and in the backbone's first layers once more; 1 everywhere is uniform.
    "prune.early": CommonParameter(("prune", "factors", "early"), Real(0.0, 2.0), "prune_early"),
    "prune.backbone": CommonParameter(("prune", "factors", "backbone"), Real(0.0, 2.0), "prune_backbone"),
    "prune.neck": CommonParameter(("prune", "factors", "neck"), Real(0.0, 2.0), "prune_neck"),
    "prune.head": CommonParameter(("prune", "factors", "head"), Real(0.0, 2.0), "prune_head"),
}
