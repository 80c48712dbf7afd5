"""What a search space's losses need of the teacher: checked before anything is spent, and kept in no larger form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage

from nasdistill.config import Recipe
from nasdistill.data.dataset import Split, label_path
from nasdistill.errors import InputError
from nasdistill.records import CacheKind, Scalar
from nasdistill.space.common import COMMON
from nasdistill.space.families import FAMILIES
from nasdistill.space.parameters import Choice, Parameter, Range
from nasdistill.space.search_space import SearchSpace
from nasdistill.students.families import Lineage, build_student
from nasdistill.teacher.cache import bytes_per_view
from nasdistill.teacher.forms import TargetForm, layout_of, maps_layout
from nasdistill.teacher.targets import target_shape
from nasdistill.teacher.teacher import Teacher

WITH_MAPS = ("cwd", "pkd", "mgd", "score_weighted")
WITH_BINS = ("ld", "l1_giou_ld")
# `auto` takes the full form up to here: beyond, pages no longer stay in memory and every step reads from the disk
MOST_CACHE_BYTES = 20e9
MOST_OF_THE_DISK = 0.5


@dataclass(frozen=True)
class Needs:
    """The form that serves every loss a space may choose, and by which value of which key neck maps are needed."""

    form: TargetForm
    maps_for: str = ""
    facts_for: str = ""


def needs_of(space: SearchSpace) -> Needs:
    """What the losses of a space need; those whose weight is always 0 need nothing."""
    features = _values(space, "feature_loss") if _may_weigh(space, "weight.feature") else []
    boxes = _values(space, "box_loss") if _may_weigh(space, "weight.box") else []
    weighing = [mode for mode in _values(space, "participation") if mode != "none"]
    maps_for = [str(value) for value in features if value in WITH_MAPS]
    return Needs(
        TargetForm(
            bins=any(value in WITH_BINS for value in boxes),
            spatial="cbam" in features,
            detections=_may_weigh(space, "weight.detections"),
            facts=bool(weighing),
            maps=bool(maps_for),
            levels=most_levels(space),
        ),
        f"{_key('feature_loss')}: {maps_for[0]}" if maps_for else "",
        f"{_key('participation')}: {weighing[0]}" if weighing else "",
    )


def most_levels(space: SearchSpace) -> int:
    """Pyramid levels of the students of a space that have most: 3 to 5."""
    return max(_most_levels(family, own.get("levels")) for family, own in space.families.items())


def _most_levels(family: str, searched: Parameter | None) -> int:
    if searched is None:
        return int(FAMILIES[family].parameters["levels"].default or 3)
    if isinstance(searched, Range):
        return int(searched.high)
    return max(int(value) for value in searched.values)


def check_losses(space: SearchSpace, teacher: Teacher, lineages: Sequence[Lineage], names: Sequence[str]) -> None:
    """Refuse losses that a head cannot take part in.

    Raises:
        InputError: localisation distillation without DFL bins on both heads, or with different ones.
    """
    if not needs_of(space).form.bins:
        return
    chosen = next(value for value in _values(space, "box_loss") if value in WITH_BINS)
    where = f"{space.source}: {_key('box_loss')}: {chosen} compares DFL bins"
    if teacher.reg_max == 1:
        raise InputError(f"{where}, which the head of the teacher {teacher.name} does not have; allowed: l1_giou")
    for line in lineages:
        bins = build_student(line.family, line.archs[0], names).head.reg_max
        if bins != teacher.reg_max:
            has = "have none" if bins == 1 else f"have {bins}"
            raise InputError(
                f"{where}: the teacher {teacher.name} has {teacher.reg_max}, but students of the family {line.family} "
                f"{has}; allowed: l1_giou"
            )


def check_labels(space: SearchSpace, recipe: Recipe, train: Split, where: str) -> None:
    """Refuse training images without a single label, unless the teacher alone teaches.

    Raises:
        InputError: labels have a weight in a stage, and there are none.
    """
    of_recipe = {
        "stages.stage1_label_weight": recipe.stage1_label_weight,
        "stages.stage2_label_weight": recipe.stage2_label_weight,
    }
    labels_teach = any(
        _may_weigh(space, name) if name in space.common else given > 0 for name, given in of_recipe.items()
    )
    if labels_teach and not train.labelled:
        raise InputError(
            f"{where}: train: none of the {len(train)} images has a label ({label_path(train.image_paths[0])}, say, was "
            f"looked for); with both {_key('stages.stage1_label_weight')} and stage2's at 0 the teacher alone teaches"
        )


def check_cache(space: SearchSpace, kind: CacheKind) -> None:
    """Refuse a form of cache that a loss of the space cannot be read from.

    Raises:
        InputError: neck maps with `sparse`, participation with `online`.
    """
    needs = needs_of(space)
    if kind == "sparse" and needs.form.maps:
        raise InputError(
            f"{space.source}: {needs.maps_for} compares neck maps, which --cache sparse does not keep; "
            "use --cache full or online, or channel_attention or cbam"
        )
    if kind == "online" and needs.form.facts:
        raise InputError(
            f"{space.source}: {needs.facts_for} weighs views against the whole pool, which --cache online never "
            "sees; use --cache full or sparse"
        )


def choose_cache(
    space: SearchSpace,
    kind: CacheKind,
    teacher: Teacher,
    sizes: Sequence[int],
    own_size: int,
    count: int,
    folder: Path,
    classes: int,
) -> tuple[CacheKind, TargetForm]:
    """The form of cache for `count` views: as asked, or for `auto` the fullest that the disk has room for.

    `sizes` are the students' input sizes, `own_size` the teacher's, `classes` those of the data. Full where it takes at
    most half of what is free in `folder` (which need not exist) and 20 GB, else sparse where the losses allow it, else
    online.
    """
    form = needs_of(space).form
    sparse = replace(form, sparse=True, maps=False)
    if kind == "auto":
        existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
        room = min(MOST_CACHE_BYTES, MOST_OF_THE_DISK * disk_usage(existing).free)
        needed = count * cache_bytes(form, teacher, sizes, own_size, classes)
        if needed <= room:
            kind = "full"
        elif not form.maps and (form.facts or count * cache_bytes(sparse, teacher, sizes, own_size, classes) <= room):
            kind = "sparse"
        else:
            kind = "online" if not form.facts else "full"
    return kind, sparse if kind == "sparse" else form


def cache_bytes(form: TargetForm, teacher: Teacher, sizes: Sequence[int], own_size: int, classes: int) -> int:
    """Bytes that one view takes in the targets of all input sizes, and in the neck maps where they are kept."""
    each = sum(bytes_per_view(layout_of(form, target_shape(teacher, size, classes, form.levels))) for size in sizes)
    return each + (bytes_per_view(maps_layout(target_shape(teacher, own_size, classes))) if form.maps else 0)


def _values(space: SearchSpace, name: str) -> list[Scalar]:
    parameter = space.common[name]
    return list(parameter.values) if isinstance(parameter, Choice) else []


def _may_weigh(space: SearchSpace, name: str) -> bool:
    parameter = space.common[name]
    if isinstance(parameter, Range):
        return parameter.high > 0
    return any(not isinstance(value, str) and value > 0 for value in parameter.values)


def _key(name: str) -> str:
    return ".".join(COMMON[name].path)
