"""Settings of a run that are not searched: the recipe's lengths and rates, the pool of views, precision.

Frozen; an unknown key is an error. Their resolved values are written to `run.json`.
"""

from typing import Annotated, Literal

from pydantic import Field

from nasdistill.errors import InputError
from nasdistill.records import CacheKind, Precision, Record, TrialConfig, ViewsName

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
OptimizerName = Literal["muon", "adamw"]
MOST_EPOCHS = 10_000
"""Of one training."""
MOST_VIEWS_PER_IMAGE = 100


NARROW, WIDE = 0.25, 0.5
"""Shares of the teacher's channels up to which a student cut from it is a narrow one, and from which on it is a wide one."""


class Recipe(Record):
    """How the two stages divide a trial. Shares are of the trial's steps, so that any length has the same shape."""

    name: str
    stage1_share: Share
    """Stage 1: backbone frozen; head, neck and connectors learn from the teacher."""
    stage1_learning_rate: Rate
    stage1_label_weight: Weight = 0.0
    stage2_learning_rate: Rate
    """Stage 2, after pruning: everything is free, ground truth is mixed in."""
    stage2_label_weight: Weight
    closing_share: Share = 0.1
    """The last share of the steps draws light views alone, where the pool has heavy ones (Mosaic, MixUp, CutMix) too."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    optimizer: OptimizerName = "adamw"
    """See `distill/optimizers.py`."""
    sliced_rate_share: Share = 1.0
    """Of both learning rates, for a student cut from the teacher: it has less far to go."""
    narrow_rate_share: Share | None = None
    """The same for one that keeps at most NARROW of the teacher's channels; in proportion up to WIDE. None: no other."""

    def on_gpu(self) -> "Recipe":
        """The recipe with batches that a GPU is busy with."""
        return self.model_copy(update={"batch_size": max(self.batch_size, GPU_BATCH_SIZE)})

    def from_teacher(self, kept: float) -> "Recipe":
        """The recipe of a student that is cut from the teacher and keeps this share of its channels, above 0."""
        share = self.sliced_rate_share
        if self.narrow_rate_share is not None:
            narrow = min(max((WIDE - kept) / (WIDE - NARROW), 0.0), 1.0)
            share += narrow * (self.narrow_rate_share - share)
        rates = {
            "stage1_learning_rate": self.stage1_learning_rate * share,
            "stage2_learning_rate": self.stage2_learning_rate * share,
        }
        return self.model_copy(update=rates)

    def with_trial(self, config: TrialConfig) -> "Recipe":
        """The recipe with what a trial's search space chose itself."""
        chosen = {name: getattr(config, name) for name in SEARCHED}
        return self.model_copy(update={name: value for name, value in chosen.items() if value is not None})


SEARCHED = (
    "stage1_share",
    "stage1_learning_rate",
    "stage1_label_weight",
    "stage2_learning_rate",
    "stage2_label_weight",
    "closing_share",
)
"""What a search space may search of a recipe, by its name in `TrialConfig` too."""

# The published values, for full-length training (150 + 50 epochs).
CLASSIC = Recipe(
    name="classic", stage1_share=0.75, stage1_learning_rate=3e-4, stage2_learning_rate=1e-5, stage2_label_weight=0.3
)
# For trials of minutes from inherited weights; the measurements behind it are in docs/decisions.md.
SHORT = Recipe(
    name="short",
    stage1_share=0.1,
    stage1_learning_rate=8e-3,
    stage2_learning_rate=1.6e-2,
    stage2_label_weight=1.0,
    batch_size=8,
    optimizer="muon",
    sliced_rate_share=0.625,
    narrow_rate_share=1.0,
)
GPU_BATCH_SIZE = 16
"""At least, on a GPU: there a step of 8 images takes about as long as one of 16."""
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (SHORT, CLASSIC)}


def load_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe '{name}'; allowed: {', '.join(RECIPES)}")
    return RECIPES[name]


class TrainingSettings(Record):
    """What all trials of a run share. Changing any of it makes scores incomparable, so it is fixed per run."""

    recipe: Recipe = SHORT
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 8
    """Length of a trial; an epoch draws as many views as there are training images, or a part of that."""
    epoch_parts: Annotated[int, Field(ge=1)] = 1
    """What an epoch's images are divided by. Where few epochs fit into a time budget, shorter ones leave less to rounding."""
    rungs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """After which epochs a trial is scored on its way, ascending, all below `epochs`; none without early stopping."""
    views: ViewsName = "plain"
    """How views are drawn (`prepare/pools.py: POLICIES`)."""
    cache: CacheKind = "auto"
    """In which form the teacher's targets are kept; `auto` is resolved before the first trial."""
    precision: Precision = "auto"
    views_per_image: Annotated[int, Field(ge=1, le=MOST_VIEWS_PER_IMAGE)] = 3
    max_views: Annotated[int, Field(ge=1)] = 6000
    """Upper limit of the pool; of a larger data set an evenly spread part is used."""
    seed: Annotated[int, Field(ge=0)] = 0
