"""The mixes of losses that the distillation benchmarks compare: each loss alone, and the default mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nasdistill.distill.objective import LossChoice, LossWeights
from nasdistill.prepare.needs import WITH_BINS, WITH_MAPS
from nasdistill.records import Scalar, TrialConfig
from nasdistill.teacher.forms import TargetForm


@dataclass(frozen=True)
class Mix:
    """A way to distil: the fields of `TrialConfig` in which it differs from labels alone."""

    fields: Mapping[str, Scalar]

    @property
    def losses(self) -> LossChoice:
        """Which form each loss has."""
        return LossChoice.of(self._config())

    @property
    def weights(self) -> LossWeights:
        """Weights of the parts, with labels at 1."""
        config = self._config()
        return LossWeights(config.weight_feature, config.weight_cls, config.weight_box, 1.0, config.weight_detections)

    @property
    def form(self) -> TargetForm:
        """What must be kept of the teacher's targets."""
        return form_of([self])

    def config(self, **student: object) -> TrialConfig:
        """A trial of this mix: `family`, `arch` and `image_size` of the student, and what else differs."""
        return TrialConfig.model_validate({**NOTHING, **self.fields, **student})

    def _config(self) -> TrialConfig:
        return self.config(family="any", arch={}, image_size=32)


NOTHING: dict[str, Scalar] = {"weight_feature": 0.0, "weight_cls": 0.0, "weight_box": 0.0, "weight_detections": 0.0}
RESPONSE: dict[str, Scalar] = {"weight_cls": 1.0, "weight_box": 1.0}
DEFAULT_MIX: dict[str, Scalar] = {**RESPONSE, "weight_feature": 1.0}
BETTER: dict[str, Scalar] = {**DEFAULT_MIX, "box_where": "better"}
BCKD: dict[str, Scalar] = {"cls_loss": "bckd"}
FADING: dict[str, Scalar] = {"weight_schedule": "cosine"}
FREE: dict[str, Scalar] = {"stage1_share": 0.0}
"""Everything free from the first step, as labels alone are."""
MIXES: dict[str, Mix] = {
    "default": Mix(DEFAULT_MIX),
    **{
        name: Mix({"weight_feature": 1.0, "feature_loss": name})
        for name in ("channel_attention", "cbam", "cwd", "pkd", "mgd", "score_weighted")
    },
    "cls": Mix({"weight_cls": 1.0}),
    "bckd": Mix({"weight_cls": 1.0, **BCKD}),
    "box": Mix({"weight_box": 1.0}),
    "box_better": Mix({"weight_box": 1.0, "box_where": "better"}),
    "ld": Mix({"weight_box": 1.0, "box_loss": "ld"}),
    "response": Mix(RESPONSE),
    "detections": Mix({"weight_detections": 1.0}),
    "default_off_at_end": Mix({**DEFAULT_MIX, "weight_schedule": "off_at_end"}),
    "default_better": Mix(BETTER),
    "better_free": Mix({**BETTER, **FREE}),
    "better_cosine": Mix({**BETTER, **FADING}),
    "better_cosine_labels": Mix({**BETTER, **FADING, "stage1_label_weight": 1.0}),
    "better_cosine_free": Mix({**BETTER, **FADING, **FREE}),
    "better_bckd_free": Mix({**BETTER, **BCKD, **FREE}),
    "better_bckd_cosine_free": Mix({**BETTER, **BCKD, **FADING, **FREE}),
    "better_bckd_cosine": Mix({**BETTER, **BCKD, **FADING}),
    "cls_4_free": Mix({"weight_cls": 4.0, **FREE}),
    "bckd_free": Mix({"weight_cls": 1.0, **BCKD, **FREE}),
    "bckd_4_free": Mix({"weight_cls": 4.0, **BCKD, **FREE}),
    "cls_free": Mix({"weight_cls": 1.0, **FREE}),
    "cls_cosine_free": Mix({"weight_cls": 1.0, **FADING, **FREE}),
    "box_better_free": Mix({"weight_box": 1.0, "box_where": "better", **FREE}),
    "channel_attention_free": Mix({"weight_feature": 1.0, **FREE}),
    "default_cosine": Mix({**DEFAULT_MIX, **FADING}),
    "default_participation": Mix({**DEFAULT_MIX, "participation": "both"}),
    "default_pkd": Mix({**DEFAULT_MIX, "feature_loss": "pkd"}),
    "default_detections": Mix({**DEFAULT_MIX, "weight_detections": 1.0}),
}
LABELS = Mix(FREE)
"""Labels alone: what every mix is compared with."""


def form_of(mixes: list[Mix]) -> TargetForm:
    """The full form that serves all of `mixes`."""
    configs = [mix._config() for mix in mixes]
    used = [config for config in configs if config.weight_feature]
    return TargetForm(
        bins=any(config.weight_box and config.box_loss in WITH_BINS for config in configs),
        spatial=any(config.feature_loss == "cbam" for config in used),
        detections=any(config.weight_detections for config in configs),
        facts=any(config.participation != "none" for config in configs),
        maps=any(config.feature_loss in WITH_MAPS for config in used),
    )
