"""What a search is asked to do, read and checked before anything is spent on it."""

import hashlib
import math
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from nasdistill.compress.prune import why_not_prunable
from nasdistill.data.dataset import Dataset, dataset_hash, load_dataset, read_names
from nasdistill.data.demo import make_demo
from nasdistill.devices.profile import DeviceProfile
from nasdistill.errors import InputError
from nasdistill.prepare.needs import check_losses
from nasdistill.prepare.starts import PretrainedFile, pretrained_files
from nasdistill.records import Scalar
from nasdistill.space.families import FAMILIES
from nasdistill.space.loader import load_space
from nasdistill.space.parameters import Parameter, Range
from nasdistill.space.search_space import SearchSpace
from nasdistill.students.families import STRUCTURAL, Lineage, build_student, group_by_lineage
from nasdistill.teacher.teacher import Teacher, class_names, load_teacher, match_classes

DEMO_TEACHER = Path(__file__).resolve().parents[1] / "teacher" / "demo_teacher.safetensors"
DEMO_SPACE, DEFAULT_SPACE = "demo", "edge-default"
MOST_SIZES = 16  # of a family's structure that are built when a space is checked
MakeData = Callable[[Teacher, int], Path]
RANGE_POINTS = 4  # architectures tried along a continuous range when a supernet's members are chosen


@dataclass(frozen=True)
class Inputs:
    """Checked inputs. `class_order[i]` is the teacher's index of the data's class i; `pretrained` is by lineage, and
    `notes` are lines that a person should see once."""

    dataset: Dataset
    data_hash: str
    teacher: Teacher
    class_order: tuple[int, ...]
    space: SearchSpace
    devices: tuple[DeviceProfile, ...]
    """Where students are timed, the main one first."""
    image_sizes: tuple[int, ...]
    lineages: tuple[Lineage, ...]
    demo: bool
    pretrained: Mapping[str, PretrainedFile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> DeviceProfile:
        """The main device."""
        return self.devices[0]

    @property
    def teacher_size(self) -> int:
        """The input size in pixels that the teacher looks at; see `own_size`."""
        return own_size(self.teacher, self.image_sizes)


OnStep = Callable[[str, float | None], None]
"""Takes what is being done and how much of it is (0..1; None where that is not known)."""


def cache_folder() -> Path:
    """Where views, targets and supernets are kept between runs: $NASDISTILL_CACHE, or the user's cache folder; made.

    Raises:
        InputError: it cannot be made or written.
    """
    own = os.environ.get("NASDISTILL_CACHE")
    folder = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nasdistill"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cache folder {folder}: cannot be used ({reason}); set NASDISTILL_CACHE") from None
    return folder


def load_inputs(
    data: Path | None,
    teacher: Path | None,
    teacher_yaml: Path | None,
    trust_teacher: bool,
    space: str | None,
    devices: Sequence[DeviceProfile],
    cache: Path,
    on_progress: OnStep = lambda text, share: None,
    synthesise: MakeData | None = None,
    kept_space: str | None = None,
) -> Inputs:
    """Read and check everything that a person named; without data and teacher, the embedded demo.

    With `synthesise` there is no data either: it makes a data.yaml from the teacher and an image size, last of all, once
    everything else is known to be right. `kept_space` is the text of the search space that a run was started with.

    Raises:
        InputError: anything is missing or wrong, in one line.
    """
    if synthesise is not None and teacher is None:
        raise InputError("--data none: --teacher is missing; images are synthesised from a teacher that you name")
    if synthesise is None and (data is None) != (teacher is None):
        missing = "--teacher" if teacher is None else "--data"
        raise InputError(f"{missing} is missing: name both --data and --teacher, or neither for the embedded demo")
    demo = data is None and synthesise is None
    search_space = load_space(space or (DEMO_SPACE if demo else DEFAULT_SPACE), kept_space)
    if demo:
        on_progress("drawing the demo boards", None)
        data, teacher = make_demo(cache / "demo"), DEMO_TEACHER
    assert teacher is not None
    on_progress("reading the teacher", None)
    loaded_teacher = load_teacher(teacher, teacher_yaml, trust_teacher)
    if data is not None:
        names = read_names(data)
        order = match_classes(loaded_teacher, names, str(data))
    else:
        names, order = class_names(loaded_teacher), list(range(loaded_teacher.classes))
    sizes = image_sizes(search_space)
    for device in devices:
        if device.image_size is not None and set(sizes) != {device.image_size}:
            raise InputError(
                f"device {device.name} takes images of {device.image_size} px, "
                f"but image_size in {search_space.source} is {', '.join(map(str, sizes))}: a copy of the space with "
                f"image_size: {device.image_size} fits"
            )
    found = tuple(lineages(search_space, names))
    check_losses(search_space, loaded_teacher, found, names)
    on_progress("checking the families", None)
    check_prunable(search_space, found, names)
    notes: list[str] = []
    pretrained = pretrained_files(search_space, found, names, cache, notes.append)
    if data is None:
        assert synthesise is not None
        data = synthesise(loaded_teacher, own_size(loaded_teacher, sizes))
    # of many images it takes minutes: everything else is known to be right
    dataset = _dataset(data, on_progress, cache)
    return Inputs(
        dataset=dataset,
        data_hash=dataset_hash(dataset),
        teacher=loaded_teacher,
        class_order=tuple(order),
        space=search_space,
        devices=tuple(devices),
        image_sizes=sizes,
        lineages=found,
        demo=demo,
        pretrained=pretrained,
        notes=tuple(notes),
    )


def _dataset(data: Path, on_progress: OnStep, cache: Path) -> Dataset:
    def count(done: int, total: int) -> None:
        if done % max(1, total // 100) == 0:
            on_progress("checking images and labels", done / total)

    on_progress("checking images and labels", 0.0)
    remembered = cache / "checked" / f"{hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:20]}.json"
    # nothing is trained or chosen on another split
    dataset = load_dataset(data, count, ("train", "val"), remembered)
    if "train" not in dataset.splits:
        raise InputError(f"{data}: no 'train' split to distil on")
    return dataset


def own_size(teacher: Teacher, sizes: Sequence[int]) -> int:
    """The input size that the teacher looks at: its own, or the students' largest where its file does not say.

    Its coarsest level divides it, or its neck could not join the levels.
    """
    size, step = teacher.image_size or max(sizes), max(32, *teacher.strides)
    return max(1, round(size / step)) * step


def image_sizes(space: SearchSpace) -> tuple[int, ...]:
    """The input sizes that a space may choose, ascending."""
    return tuple(sorted(int(value) for value in space.common["image_size"].grid() or ()))


def lineages(space: SearchSpace, names: tuple[str, ...]) -> list[Lineage]:
    """The architectures of a space, grouped by what can be cut out of one another.

    Of a family with many sizes these are representatives; the smallest and the largest of each structure are among them.

    Raises:
        InputError: an architecture cannot be built.
    """
    found: list[Lineage] = []
    for family, parameters in space.families.items():
        try:
            found += group_by_lineage(family, representatives(family, parameters), names)
        except (ValueError, KeyError, RuntimeError, ZeroDivisionError) as error:
            raise InputError(f"{space.source}: families.{family}: {error}") from error
    return found


def representatives(family: str, parameters: Mapping[str, Parameter]) -> list[dict[str, Scalar]]:
    """Architectures of a family: every combination of structures and variants, each at a few of its sizes.

    All sizes where they are at most MOST_SIZES; else the smallest, the largest, each parameter at its ends with the others
    at theirs, and random ones.
    """
    values = {name: sized(parameter, family, name) for name, parameter in parameters.items()}
    shapes = [name for name in values if name in STRUCTURAL or name == "variant"]
    sizes = {name: found for name, found in values.items() if name not in shapes}
    structures = [dict(zip(shapes, chosen, strict=True)) for chosen in product(*(values[name] for name in shapes))]
    if math.prod(map(len, sizes.values())) <= MOST_SIZES:
        chosen_sizes = [dict(zip(sizes, chosen, strict=True)) for chosen in product(*sizes.values())]
    else:
        smallest, largest = ({name: found[end] for name, found in sizes.items()} for end in (0, -1))
        chosen_sizes = [smallest, largest]
        chosen_sizes += [{**smallest, name: found[-1]} for name, found in sizes.items()]
        chosen_sizes += [{**largest, name: found[0]} for name, found in sizes.items()]
        chooser = random.Random(0)
        while len(chosen_sizes) < MOST_SIZES:
            chosen_sizes.append({name: chooser.choice(found) for name, found in sizes.items()})
        chosen_sizes = [size for index, size in enumerate(chosen_sizes) if size not in chosen_sizes[:index]]
    return [{**structure, **size} for structure in structures for size in chosen_sizes]


def extremes(space: SearchSpace, family: str) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """The smallest and the largest architecture of a family in a space."""
    values = {name: sized(parameter, family, name) for name, parameter in space.families[family].items()}
    return {name: found[0] for name, found in values.items()}, {name: found[-1] for name, found in values.items()}


def sized(parameter: Parameter, family: str, name: str) -> list[Scalar]:
    """The values of a parameter (of a continuous range, evenly spread ones), from the smallest student to the largest."""
    rule = FAMILIES[family].parameters[name].rule
    return sorted(_points(parameter), key=rule.rank)


def check_prunable(space: SearchSpace, lineages: Sequence[Lineage], names: tuple[str, ...]) -> None:
    """Say so now when a space asks for pruning and a family has nothing that can be pruned.

    Raises:
        InputError: naming the file and the key.
    """
    ratios = space.common["prune.ratio"]
    if not any(float(ratio) > 0.0 for ratio in _points(ratios)):
        return
    for line in lineages:
        reason = why_not_prunable(build_student(line.family, line.archs[0], names).model)
        if reason is not None:
            raise InputError(f"{space.source}: prune.ratio: {line.name} cannot be pruned ({reason}); set it to 0")


def _points(parameter: Parameter) -> list[Scalar]:
    """The values of a finite parameter; of a continuous range, evenly spread ones with both ends."""
    grid = parameter.grid()
    if grid is not None:
        return list(grid)
    assert isinstance(parameter, Range)
    width = parameter.high - parameter.low
    inner = [parameter.low + width * index / (RANGE_POINTS - 1) for index in range(RANGE_POINTS - 1)]
    return [*inner, parameter.high]  # not computed: what rounding adds would be outside the range
