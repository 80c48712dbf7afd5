"""A run whose data or teacher lie elsewhere now, and paths that cannot be kept."""

from pathlib import Path

import pytest

from nasdistill.errors import InputError
from nasdistill.search.budget import parse_budget
from nasdistill.session.request import SearchRequest, check
from nasdistill.store.run_folder import RunFolder


def resumed(out: Path, **given: str) -> SearchRequest:
    return SearchRequest(resume=True, out=out, budget=parse_budget("3trials"), **given)


def test_data_and_teacher_may_have_moved(tmp_path: Path) -> None:
    """What they hold is compared when they are read."""
    run = RunFolder.create(tmp_path / "run")
    run.update_run(settings={"data": "old/data.yaml", "teacher": "old/teacher.pt", "teacher_yaml": None, "seed": 3})
    _, settings = check(resumed(run.path, data="new/data.yaml"))
    assert (settings["data"], settings["teacher"], settings["seed"]) == ("new/data.yaml", "old/teacher.pt", 3)
    with pytest.raises(InputError, match="--teacher-yaml yolo11n.yaml: .* was started with its default"):
        check(resumed(run.path, teacher_yaml="yolo11n.yaml"))
    with pytest.raises(InputError, match="--data none: .* was started with old/data.yaml"):
        check(resumed(run.path, data="none"))


@pytest.mark.parametrize(("kept", "given"), [(None, "data.yaml"), ("none", "data.yaml")])
def test_the_demo_and_synthesised_images_are_no_data_that_moved(tmp_path: Path, kept: str | None, given: str) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.update_run(settings={"data": kept, "teacher": "teacher.pt"})
    with pytest.raises(InputError, match="leave it out"):
        check(resumed(run.path, data=given))


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="no UTF-8; rename it") as caught:
        check(SearchRequest(budget=parse_budget("3trials"), data="caf\udce9/data.yaml"))
    assert "\udce9" not in str(caught.value), "it can be printed"
