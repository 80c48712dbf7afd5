"""What a space's losses need: no more is kept, and what cannot be had is said before anything is spent."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import NAMES, SIZE, small_teacher
from ultralytics.nn.tasks import DetectionModel

from nasdistill.config import SHORT, Recipe
from nasdistill.data.dataset import Split
from nasdistill.errors import InputError
from nasdistill.prepare import needs
from nasdistill.prepare.inputs import lineages
from nasdistill.prepare.needs import cache_bytes, check_cache, check_labels, check_losses, choose_cache, needs_of
from nasdistill.space.parse import parse_space
from nasdistill.space.search_space import SearchSpace
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.teacher import Teacher

Usage = namedtuple("Usage", "total used free")


def space_of(distill: str) -> SearchSpace:
    head = "name: a\nfamilies: {yolov5: {depth: 0.33, width: 0.0625}}\nimage_size: 96\n"
    return parse_space(f"{head}distill: {distill}\n", "a.yaml")


@pytest.mark.parametrize(
    ("distill", "form"),
    [
        ("{feature_loss: channel_attention}", TargetForm()),
        ("{feature_loss: [channel_attention, cbam]}", TargetForm(spatial=True)),
        ("{feature_loss: [channel_attention, pkd]}", TargetForm(maps=True)),
        ("{feature_loss: cwd, weights: {feature: 0.0}}", TargetForm()),
        ("{feature_loss: cwd, weights: {feature: [0.0, 1.0]}}", TargetForm(maps=True)),
        ("{box_loss: [l1_giou, ld]}", TargetForm(bins=True)),
        ("{box_loss: ld, weights: {box: 0}}", TargetForm()),
        ("{weights: {detections: {range: [0.0, 1.0], step: 0.5}}}", TargetForm(detections=True)),
        ("{participation: [none, both]}", TargetForm(facts=True)),
    ],
)
def test_only_what_some_loss_reads(distill: str, form: TargetForm) -> None:
    assert needs_of(space_of(distill)).form == form


@pytest.mark.parametrize(
    ("stages", "recipe", "refused"),
    [
        ("{}", SHORT, True),
        ("{stage2_label_weight: 0.0}", SHORT, False),
        ("{stage2_label_weight: [0.0, 0.5]}", SHORT, True),
        ("{stage2_label_weight: 0.0, stage1_label_weight: 0.5}", SHORT, True),
        ("{}", SHORT.model_copy(update={"stage2_label_weight": 0.0}), False),
    ],
)
def test_training_images_need_labels_unless_the_teacher_alone_teaches(
    stages: str, recipe: Recipe, refused: bool
) -> None:
    space = parse_space(
        f"name: a\nfamilies: {{yolov5: {{depth: 0.33, width: 0.0625}}}}\nimage_size: 96\nstages: {stages}\n", "a.yaml"
    )
    bare = Split((Path("data/images/1.png"), Path("data/images/2.png")), (np.zeros((0, 5)), np.zeros((0, 5))))
    if refused:
        with pytest.raises(
            InputError, match=r"data\.yaml: train: none of the 2 images has a label \(data/labels/1\.txt, say"
        ):
            check_labels(space, recipe, bare, "data.yaml")
    else:
        check_labels(space, recipe, bare, "data.yaml")
    check_labels(space, recipe, replace(bare, boxes=(np.zeros((0, 5)), np.ones((1, 5)))), "data.yaml")


@pytest.mark.parametrize(
    ("families", "levels"),
    [
        ("{yolov5: {depth: 0.33, width: 0.0625}}", 3),
        ("{yolov5: {depth: 0.33, width: 0.0625, levels: 4}}", 4),
        ("{yolov5: {depth: 0.33, width: 0.0625}, mobilenetv3: {variant: small_050, neck: 16, levels: [3, 5]}}", 5),
        ("{yolov5: {depth: 0.33, width: 0.0625, levels: {range: [3, 4]}}}", 4),
    ],
)
def test_targets_have_the_levels_of_the_space(families: str, levels: int) -> None:
    text = f"name: a\nfamilies: {families}\nimage_size: 128\ndistill: {{box_loss: ld}}\n"
    space, teacher = parse_space(text, "a.yaml"), small_teacher()
    assert needs_of(space).form == TargetForm(bins=True, levels=levels)
    _, sparse = choose_cache(space, "sparse", teacher, [128], SIZE, 10, Path("."), len(NAMES))
    assert sparse == TargetForm(sparse=True, bins=True, levels=levels)


class TestHeads:
    """Localisation distillation compares bins."""

    def test_a_teacher_without_bins(self) -> None:
        model = DetectionModel("yolo26n.yaml", nc=len(NAMES), verbose=False)
        space, teacher = space_of("{box_loss: l1_giou_ld}"), Teacher(model, NAMES, "y26.pt", "", SIZE)
        assert teacher.reg_max == 1
        line = r"a.yaml: distill.box_loss: l1_giou_ld compares DFL bins, which the head of the teacher y26.pt does not"
        with pytest.raises(InputError, match=line):
            check_losses(space, teacher, lineages(space, NAMES), NAMES)
        check_losses(space_of("{box_loss: l1_giou}"), teacher, lineages(space, NAMES), NAMES)

    def test_students_whose_bins_are_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        space, teacher = space_of("{box_loss: ld}"), small_teacher()
        lines = lineages(space, NAMES)
        check_losses(space, teacher, lines, NAMES)
        build = needs.build_student

        def without_bins(*arguments: object) -> object:
            student = build(*arguments)
            student.head.reg_max = 1
            return student

        monkeypatch.setattr(needs, "build_student", without_bins)
        with pytest.raises(InputError, match="small.pt has 16, but students of the family yolov5 have none"):
            check_losses(space, teacher, lines, NAMES)


class TestCacheKind:
    """full, sparse, online, or what the disk has room for."""

    def test_maps_are_not_sparse_and_participation_is_not_online(self) -> None:
        with pytest.raises(InputError, match=r"a.yaml: distill.feature_loss: cwd compares neck maps.*--cache sparse"):
            check_cache(space_of("{feature_loss: [cbam, cwd]}"), "sparse")
        with pytest.raises(InputError, match=r"a.yaml: distill.participation: error weighs views.*--cache online"):
            check_cache(space_of("{participation: error}"), "online")
        for kind in ("auto", "full"):
            check_cache(space_of("{feature_loss: cwd, participation: error}"), kind)

    @pytest.mark.parametrize(
        ("distill", "free_of_full", "kind"),
        [
            ("{feature_loss: cbam}", 3.0, "full"),
            ("{feature_loss: cbam}", 1.9, "sparse"),
            ("{feature_loss: cbam}", 0.001, "online"),
            ("{feature_loss: cwd}", 3.0, "full"),
            ("{feature_loss: cwd}", 1.9, "online"),
        ],
    )
    def test_auto_takes_half_of_what_is_free(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distill: str, free_of_full: float, kind: str
    ) -> None:
        space, teacher = space_of(distill), small_teacher()
        full = 1000 * cache_bytes(needs_of(space).form, teacher, [96, 64], SIZE, len(NAMES))
        monkeypatch.setattr(needs, "disk_usage", lambda path: Usage(0, 0, int(free_of_full * full)))
        found, form = choose_cache(space, "auto", teacher, [96, 64], SIZE, 1000, tmp_path / "not" / "yet", len(NAMES))
        assert found == kind
        assert form.sparse == (kind == "sparse") and form.spatial == ("cbam" in distill)

    def test_what_is_asked_for_is_taken(self, tmp_path: Path) -> None:
        for kind in ("full", "sparse", "online"):
            found, form = choose_cache(space_of("{}"), kind, small_teacher(), [96], SIZE, 10, tmp_path, len(NAMES))
            assert found == kind and form.sparse == (kind == "sparse")
