"""Energy counters: a folder that looks like Linux's powercap."""

from pathlib import Path

import pytest
from test_onnxruntime_local import QUICK, conv_model

from nasdistill.devices.energy import EnergyMeter
from nasdistill.devices.onnxruntime_local import OnnxRuntimeLocal
from nasdistill.devices.sampling import sample

RANGE = 262_143_328_850


def zone(root: Path, name: str, kind: str, energy_uj: int, range_uj: int = RANGE) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "name").write_text(f"{kind}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, one with a part of its own, and the zone of the whole platform."""
    root = tmp_path / "powercap"
    root.mkdir()
    zone(root, "intel-rapl:0", "package-0", 1_000_000)
    zone(root, "intel-rapl:0:0", "core", 500_000)
    zone(root, "intel-rapl:1", "package-1", 10)
    zone(root, "intel-rapl:2", "psys", 7)
    (root / "intel-rapl").mkdir()
    return root


def test_packages_are_added_and_neither_their_parts_nor_the_platform(powercap: Path) -> None:
    meter = EnergyMeter(powercap)
    before = meter.read()
    assert meter.available and before == (1_000_000, 10)
    for name, value in (("0", 1_500_000), ("0:0", 900_000), ("1", 2_010), ("2", 10**6)):
        (powercap / f"intel-rapl:{name}" / "energy_uj").write_text(str(value))
    assert meter.spent_mj(before, meter.read()) == 502.0


def test_a_counter_that_began_anew(powercap: Path) -> None:
    meter = EnergyMeter(powercap)
    assert meter.spent_mj((RANGE - 3000, 10), (2000, 10)) == 5.0


def test_no_energy_is_no_zero(powercap: Path, tmp_path: Path) -> None:
    meter = EnergyMeter(powercap)
    assert meter.spent_mj(meter.read(), meter.read()) is None, "the counters did not move"
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.read() is None, "one package is unknown, and so is the sum"
    nothing = EnergyMeter(tmp_path / "none")
    assert not nothing.available and nothing.read() is None and nothing.spent_mj(None, None) is None


def test_energy_is_that_of_one_run(powercap: Path) -> None:
    counter, runs = powercap / "intel-rapl:0" / "energy_uj", [0]

    def run() -> None:
        runs[0] += 1
        counter.write_text(str(1_000_000 + 4000 * runs[0]))

    stats = sample(run, 0.0, 10, 0.2, meter=EnergyMeter(powercap))
    assert stats.energy_mj == pytest.approx(4.0) and stats.samples >= 4
    assert sample(run, 0.0, 4, 0.01).energy_mj is None


def test_the_profiler_says_whether_it_knows_energy(powercap: Path, tmp_path: Path) -> None:
    with_counters, without = OnnxRuntimeLocal(QUICK, powercap), OnnxRuntimeLocal(QUICK, tmp_path)
    assert with_counters.reports_energy() and "RAPL" in with_counters.describe()["energy"]
    assert not without.reports_energy() and without.describe()["energy"] is None
    model = conv_model(tmp_path / "model.onnx")
    assert without.measure(model).energy_mj is None
    assert with_counters.measure(model).energy_mj is None, "these counters stand still"
