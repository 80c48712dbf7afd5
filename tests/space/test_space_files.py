"""Search-space files: the shipped ones load, and every mistake is one line with file, line, key and what is allowed."""

import random
from pathlib import Path
from typing import get_args

import pytest

from nasdistill.config import CLASSIC
from nasdistill.errors import InputError
from nasdistill.records import FeatureLoss, Participation
from nasdistill.space.common import COMMON
from nasdistill.space.loader import list_spaces, load_space
from nasdistill.space.parameters import Choice, Range
from nasdistill.space.parse import parse_space
from nasdistill.space.search_space import flat_params

GOOD = """\
name: edge
families:
  yolov5:
    depth: [0.33, 0.67]
    width: {range: [0.0625, 0.25], step: 0.0625}
image_size: [256, 320]
distill:
  temperature: {start: {range: [1.0, 8.0], log: true}, end: 1}
  weights:
    cls: {range: [0.1, 4.0], log: true}
prune: {ratio: 0.2}
"""


def test_every_shipped_space_loads_under_its_file_name() -> None:
    spaces = list_spaces()
    assert {"demo", "edge-default"} <= {space.name for space in spaces}
    for shipped in spaces:
        space = load_space(shipped.name)
        assert space.name == shipped.name == shipped.path.stem
        assert space.description == shipped.description != ""
        assert load_space(shipped.path) == space
        assert space.text == shipped.path.read_text(encoding="utf-8")
        assert parse_space(space.text, str(shipped.path)) == space, "the stored text is enough to resume from"


def test_a_good_file_says_what_it_says() -> None:
    space = parse_space(GOOD, "edge.yaml")
    assert space.families["yolov5"] == {"depth": Choice((0.33, 0.67)), "width": Range(0.0625, 0.25, 0.0625)}
    assert space.common["image_size"] == Choice((256, 320))
    assert space.common["temperature.start"] == Range(1.0, 8.0, log=True)
    assert space.common["temperature.end"] == Choice((1.0,))
    assert space.common["prune.ratio"] == Choice((0.2,))
    # Left out: fixed at the trial's own default.
    assert space.common["temperature.schedule"] == Choice(("linear",))
    assert space.common["feature_loss"] == Choice(("channel_attention",))
    assert space.common["weight.box"] == Choice((1.0,))
    assert space.common["box_loss"] == Choice(("l1_giou",))
    assert space.common["weight.detections"] == Choice((0.0,))
    # Left out, and then the recipe's own: no parameters of the space.
    assert list(space.common) == [name for name in COMMON if not name.startswith("stages.")]
    assert space.recipe is None and space.views is None


def test_the_recipe_and_the_views_are_named_and_stages_are_searched() -> None:
    stages = "stages: {stage1_share: [0.0, 0.1, 0.3], stage2_learning_rate: {range: [1e-3, 4e-3], log: true}}\n"
    space = parse_space(GOOD + "recipe: classic\nviews: heavy\n" + stages, "edge.yaml")
    assert (space.recipe, space.views) == ("classic", "heavy")
    assert space.common["stages.stage1_share"] == Choice((0.0, 0.1, 0.3))
    params = space.sample(random.Random(0))
    config = space.config(params)
    assert config.stage1_share == params["stages.stage1_share"] and config.stage1_learning_rate is None
    assert flat_params(config) == params
    recipe = CLASSIC.with_trial(config)
    assert recipe.stage1_share == params["stages.stage1_share"]
    assert recipe.stage2_learning_rate == params["stages.stage2_learning_rate"]
    assert recipe.stage1_learning_rate == CLASSIC.stage1_learning_rate


def test_every_kind_of_loss_can_be_searched() -> None:
    distill = """distill:
  feature_loss: [channel_attention, cbam, cwd, pkd, mgd, score_weighted]
  connector: [conv, conv_bn]
  box_loss: [l1_giou, ld, l1_giou_ld]
  participation: [none, complexity, error, both]
  schedule: [constant, cosine, off_at_end]
  weights: {detections: {range: [0.0, 2.0], step: 0.5}}
"""
    text = GOOD.replace(GOOD[GOOD.index("distill:") : GOOD.index("prune:")], distill)
    space = parse_space(text, "edge.yaml")
    configs = [space.config(space.sample(random.Random(seed))) for seed in range(60)]
    assert {config.feature_loss for config in configs} == set(get_args(FeatureLoss))
    assert {config.participation for config in configs} == set(get_args(Participation))
    assert len({(config.box_loss, config.weight_schedule, config.connector) for config in configs}) == 18


def test_a_whole_number_range_steps_by_the_smallest_allowed_multiple() -> None:
    families = "families: {mobilenetv3: {variant: small_050, neck: {range: [16, 48]}}}"
    text = f"name: a\n{families}\nimage_size: {{range: [160, 256]}}\n"
    space = parse_space(text, "a.yaml")
    assert space.families["mobilenetv3"]["neck"] == Range(16, 48, 8)
    assert space.common["image_size"] == Range(160, 256, 32)


# (what of GOOD is replaced, by what, what the error says)
MISTAKES = [
    (
        "width: {",
        "widht: {",
        "edge.yaml, line 5: unknown key 'widht' in families.yolov5; allowed: depth, width, width_p2",
    ),
    ("width: {", "widht: {", "(did you mean 'width'?)"),
    (
        "  yolov5:",
        "  yolo5:",
        "line 3: unknown key 'yolo5' in families; allowed: yolov5, yolov8, yolo11, yolo26, mobilenetv3",
    ),
    (
        "image_size",
        "imagesize",
        "line 6: unknown key 'imagesize'; allowed: name, description, recipe, views, families, image_size",
    ),
    (
        "cls:",
        "class:",
        "line 10: unknown key 'class' in distill.weights; allowed: feature, cls, box, detections (did you mean 'cls'?)",
    ),
    ("start:", "begin:", "line 8: unknown key 'begin' in distill.temperature; allowed: start, end, schedule"),
    ("ratio:", "share:", "line 11: unknown key 'share' in prune; allowed: ratio, importance, factors"),
    ("    depth: [0.33, 0.67]\n", "", "line 4: key 'depth' in families.yolov5 is missing"),
    ("image_size: [256, 320]\n", "", "line 1: key 'image_size' is missing"),
    ("image_size:", "name: x\nimage_size:", "line 6: key 'name' is repeated, it already stands in line 1"),
    ("[256, 320]", "[256, 300]", "line 6: image_size: 300 is not a multiple of 32"),
    ("[256, 320]", "[256, 256]", "line 6: image_size: 256 is listed twice"),
    ("[256, 320]", "[]", "line 6: image_size: the list is empty"),
    ("[256, 320]", "", "line 6: image_size: no value given"),
    ("[256, 320]", "[256, big]", "expected a whole number, a multiple of 32, in [32, 2048], got 'big'"),
    ("[256, 320]", "[[256], 320]", "line 6: image_size: expected a single value, got a list"),
    ("[256, 320]", "4096", "line 6: image_size: 4096 is outside [32, 2048]"),
    ("[256, 320]", "{range: [256, 320], step: 16}", "line 6: image_size.step: expected a multiple of 32, got 16"),
    (
        "[256, 320]",
        "{range: [32, 320], log: true}",
        "line 6: image_size.log: a log range cannot have steps; list the values",
    ),
    ("[0.33, 0.67]", "[0.33, 3.0]", "line 4: families.yolov5.depth: 3.0 is outside [0.1, 1.5]"),
    ("[0.33, 0.67]", "true", "line 4: families.yolov5.depth: expected a number in [0.1, 1.5], got True"),
    ("[0.33, 0.67]", ".nan", "line 4: families.yolov5.depth: expected a text or a finite number"),
    ("[0.33, 0.67]", "2020-13-45", "line 4: families.yolov5.depth: cannot read the value '2020-13-45'"),
    ("[0.0625, 0.25]", "[0.25, 0.0625]", "line 5: families.yolov5.width.range: low 0.25 is not below high 0.0625"),
    ("[0.0625, 0.25]", "[0.25, 0.25]", "low 0.25 is not below high 0.25; write a single value"),
    ("[0.0625, 0.25]", "[0.25]", "line 5: families.yolov5.width.range: expected [low, high], got 1 values"),
    ("[0.0625, 0.25]", "0.25", "line 5: families.yolov5.width.range: expected a list, got '0.25'"),
    (
        "step: 0.0625",
        "step: 0.07",
        "line 5: families.yolov5.width.step: steps of 0.07 from 0.0625 do not end at 0.25 but at",
    ),
    ("step: 0.0625", "step: 0.5", "do not end at 0.25 but at 0.0625"),
    ("step: 0.0625", "step: 0", "line 5: families.yolov5.width.step: expected a number above 0, got 0"),
    ("step: 0.0625", "step: 1e-9", "makes more than 10000 steps"),
    ("step: 0.0625", "stp: 0.0625", "unknown key 'stp' in families.yolov5.width; allowed: range, step, log"),
    ("{range: [0.0625, 0.25], step: 0.0625}", "{step: 0.1}", "line 5: key 'range' in families.yolov5.width is missing"),
    ("log: true}, end", "log: 1}, end", "line 8: distill.temperature.start.log: expected true or false, got 1"),
    ("[0.1, 4.0], log", "[0, 4.0], log", "line 10: distill.weights.cls.range: a log range needs low above 0, got 0.0"),
    (
        "[0.1, 4.0], log: true",
        "[0.1, 4.0], log: true, step: 0.1",
        "distill.weights.cls.step: a log range cannot have steps",
    ),
    (
        "end: 1",
        "schedule: cosin",
        "distill.temperature.schedule: unknown value 'cosin'; allowed: constant, linear, cosine",
    ),
    ("end: 1", "schedule: {range: [a, b]}", "expected a name or a list of names (constant, linear, cosine)"),
    ("{ratio: 0.2}", "{ratio: 1.0}", "line 11: prune.ratio: 1.0 is outside [0.0, 0.9]"),
    ("{ratio: 0.2}", "{importance: l1}", "prune.importance: unknown value 'l1'; allowed: l2, bn_scale, taylor"),
    (
        "{ratio: 0.2}",
        "{factors: {necks: 1}}",
        "unknown key 'necks' in prune.factors; allowed: early, backbone, neck, head",
    ),
    ("{ratio: 0.2}", "{factors: {neck: 3}}", "line 11: prune.factors.neck: 3 is outside [0.0, 2.0]"),
    ("    depth:", "    weights: none.pt\n    depth:", "line 4: families.yolov5.weights: no such file: none.pt"),
    ("    depth:", "    weights: [hub, 3]\n    depth:", "line 4: families.yolov5.weights: expected a text, got 3"),
    ("{ratio: 0.2}", "0.2", "line 11: prune: expected keys and values (ratio, importance, factors), got '0.2'"),
    ("name: edge", "name: my edge", "line 1: name: 'my edge' may hold letters, digits"),
    ("name: edge", "name: 3", "line 1: name: expected a text, got 3"),
    ("name: edge", "name: edge\n? [a]\n: b", "line 2: a key must be a plain word"),
    ("name: edge", "name: 'edge", "edge.yaml, line "),
    ("name: edge", "name: edge\n---\nname: two", "not valid YAML"),
    ("name: edge", "name: \x00", "not valid YAML"),
    ("name: edge", "name: !!python/object:os.system x", "line 1: name: cannot read the value 'x'"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_a_mistake_is_one_clear_line(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as error:
        parse_space(GOOD.replace(old, new, 1), "edge.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("edge.yaml")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "null", "[" * 5000, "- a", "families: {}", "a: *unknown", "a: &a {b: *a}"]
)
def test_what_is_no_search_space_at_all_is_one_clear_line(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_space(text, "edge.yaml")
    assert str(error.value).startswith("edge.yaml")
    assert "\n" not in str(error.value)


def test_numbers_in_exponent_form_are_numbers() -> None:
    space = parse_space(GOOD.replace("[0.1, 4.0]", "[1e-2, 1e2]"), "edge.yaml")
    assert space.common["weight.cls"] == Range(0.01, 100.0, log=True)


def test_unknown_names_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown search space 'demmo'; give a .yaml file or one of: .*demo.*mean 'demo'"
    ):
        load_space("demmo")
    with pytest.raises(InputError, match="search space .*none.yaml: no such file"):
        load_space(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="search space .*: cannot be read"):
        load_space(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.yaml: not a UTF-8 text file \(byte 8\)"):
        load_space(tmp_path / "latin.yaml")
    (tmp_path / "own.yml").write_text(GOOD)
    assert load_space(tmp_path / "own.yml").name == "edge"
