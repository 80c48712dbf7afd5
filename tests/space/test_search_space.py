"""Search spaces as the search uses them: define-by-run parameters, samples, anchors, and the way to TrialConfig."""

import pickle
import random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nasdistill.errors import InputError
from nasdistill.records import TrialConfig
from nasdistill.space.loader import list_spaces, load_space
from nasdistill.space.parse import parse_space
from nasdistill.space.search_space import FEWEST_ANCHORS, SearchSpace, flat_params

SHIPPED = [load_space(space.name) for space in list_spaces()]
spaces = st.sampled_from(SHIPPED)


@given(spaces, st.integers(0, 2**32))
def test_every_sample_lies_in_its_space_and_survives_yaml_and_config(space: SearchSpace, seed: int) -> None:
    params = space.sample(random.Random(seed))
    assert params == space.sample(random.Random(seed))
    assert space.contains(params) is None
    assert space.parameters(params) == {}
    config = space.config(params)
    again = yaml.safe_load(yaml.safe_dump(params))
    assert space.config(again) == config
    assert TrialConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config
    assert flat_params(config) == params
    assert list(flat_params(config)) == list(params), "same order of columns"


@given(spaces, st.integers(0, 2**32))
def test_a_changed_sample_is_refused_with_the_parameter_named(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    params = space.sample(rng)
    name = rng.choice(list(params))
    without = {key: params[key] for key in params if key != name}
    for changed in ({**params, name: "nonsense"}, without):
        assert name in (space.contains(changed) or "")
        if changed is without and space.complete(without) == params:
            assert space.config(without) == space.config(params), "a single value goes without saying"
            continue
        with pytest.raises(InputError, match=f"search space {space.name}: {name}"):
            space.config(changed)
    assert space.contains({**params, "depth": 1}) == f"depth is no parameter of {params['family']} in {space.name}"


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_parameters_are_asked_for_family_first_then_only_its_own(space: SearchSpace) -> None:
    assert list(space.parameters({})) == ["family"]
    for family in space.families:
        following = space.parameters({"family": family})
        others = [name for name in space.families if name != family]
        assert not [name for name in following if name.startswith(tuple(f"{other}." for other in others))]
        assert {f"{family}.{name}" for name in space.families[family]} < set(following)
        assert "image_size" not in space.parameters({"family": family, "image_size": 256})
    with pytest.raises(InputError, match="no family 'vgg'; it has yolov5"):
        space.parameters({"family": "vgg"})


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_anchors_are_valid_distinct_and_span_families_and_sizes_early(space: SearchSpace) -> None:
    anchors = space.anchors()
    assert anchors == space.anchors()
    configs = [space.config(anchor) for anchor in anchors]
    assert len({config.model_dump_json() for config in configs}) == len(configs)
    first = configs[: len(space.families)]
    assert {config.family for config in first} == set(space.families)
    sizes = space.common["image_size"].grid()
    assert sizes is not None
    assert {min(sizes), max(sizes)} <= {config.image_size for config in configs[:2]}
    assert FEWEST_ANCHORS <= len(anchors) < len(space.families) + FEWEST_ANCHORS, (
        "a short search has other trials to make"
    )
    assert all(anchor["weight.cls"] == pytest.approx(1.0) for anchor in anchors), "recipe weights are centred on 1"


@pytest.mark.parametrize("space", SHIPPED, ids=lambda space: space.name)
def test_of_the_recipe_the_middles_are_believed_and_of_students_nothing(space: SearchSpace) -> None:
    believed = space.believed()
    assert set(believed) == {"temperature.start", "weight.feature", "weight.cls", "weight.box"}
    assert believed["temperature.start"] == pytest.approx(8**0.5)
    assert believed["weight.cls"] == pytest.approx(1.0)
    assert all(anchor[name] == value for anchor in space.anchors() for name, value in believed.items())


def test_anchors_of_one_family_in_full() -> None:
    text = """
name: one
families: {mobilenetv3: {variant: [large_075, small_050, small_100], neck: {range: [16, 64], step: 16}}}
image_size: [320, 256, 192]
distill: {temperature: {start: {range: [1.0, 4.0], log: true}}}
prune: {ratio: {range: [0.1, 0.5], step: 0.1}}
"""
    space = parse_space(text, "one.yaml")
    keys = ("mobilenetv3.variant", "mobilenetv3.neck", "image_size", "temperature.start", "prune.ratio")
    assert [tuple(anchor[key] for key in keys) for anchor in space.anchors()] == [
        ("large_075", 64, 320, 2.0, 0.1),
        ("small_050", 16, 192, 2.0, 0.1),
        ("small_100", 32, 256, 2.0, 0.3),
    ]


def test_a_space_of_one_point_has_one_anchor_and_a_grid_of_one() -> None:
    fixed = parse_space("name: one\nfamilies: {efficientnet_lite0: {neck: 32}}\nimage_size: 256\n", "one.yaml")
    assert fixed.grid_size() == 1
    assert len(fixed.anchors()) == 1
    assert fixed.config(fixed.anchors()[0]) == TrialConfig(
        family="efficientnet_lite0", arch={"neck": 32}, image_size=256
    )
    two = "families: {efficientnet_lite0: {neck: [32, 48]}, yolov5: {depth: 0.33, width: [0.25, 0.5, 0.75]}}"
    assert parse_space(f"name: a\n{two}\nimage_size: [256, 320]\n", "a.yaml").grid_size() == 2 * 2 + 3 * 2
    assert SHIPPED[0].grid_size() is None


def test_a_sampler_s_types_and_rounding_noise_give_the_same_trial() -> None:
    space = load_space("edge-default")
    params = {**space.sample(random.Random(1)), "family": "yolov5"}
    params = {name: value for name, value in params.items() if "." not in name or not name.startswith(("mob", "eff"))}
    params |= {"yolov5.depth": 0.33, "yolov5.width": 0.0625 * 3, "image_size": 256.0, "prune.ratio": 3 * 0.05}
    config = space.config(params)
    assert (config.arch["width"], config.image_size, config.prune_ratio) == (0.1875, 256, 0.15)
    assert isinstance(config.image_size, int)


def test_a_run_from_before_a_parameter_was_there_is_read_by_what_the_space_fixes() -> None:
    space = load_space("edge-default")
    params = space.sample(random.Random(0))
    earlier = {name: value for name, value in params.items() if name != "box_where"}
    assert space.config(earlier).box_where == "better"
    assert space.complete(earlier) == params and space.complete({"family": "vgg"}) == {"family": "vgg"}
    with pytest.raises(InputError, match="image_size is missing"):
        space.config({name: value for name, value in earlier.items() if name != "image_size"})


def test_a_space_can_be_sent_to_workers() -> None:
    for space in SHIPPED:
        assert pickle.loads(pickle.dumps(space)) == space
