"""Temperature and weight of the teacher over a trial."""

import math

import pytest

from nasdistill.distill.schedule import (
    LEAST_SHARE,
    OFF_FROM,
    TEMPERATURE_SCHEDULES,
    WEIGHT_SCHEDULES,
    teacher_share_at,
    temperature_at,
)
from nasdistill.records import TrialConfig


def softened(progress: float, start: float, end: float, schedule: str) -> float:
    return temperature_at(progress, config(temperature_start=start, temperature_end=end, temperature_schedule=schedule))


def share(progress: float, schedule: str) -> float:
    return teacher_share_at(progress, config(weight_schedule=schedule))


def config(**fields: object) -> TrialConfig:
    return TrialConfig.model_validate({"family": "yolov5", "arch": {}, "image_size": 64, **fields})


class TestTemperature:
    """From start to end over the trial."""

    @pytest.mark.parametrize("schedule", TEMPERATURE_SCHEDULES)
    def test_starts_at_start(self, schedule: str) -> None:
        assert softened(0.0, 6.0, 1.5, schedule) == 6.0

    @pytest.mark.parametrize(
        ("schedule", "quarter", "end"),
        [("constant", 6.0, 6.0), ("linear", 4.875, 1.5), ("cosine", 6 - 4.5 * (1 - math.sqrt(0.5)) / 2, 1.5)],
    )
    def test_on_the_way_and_at_the_end(self, schedule: str, quarter: float, end: float) -> None:
        assert softened(0.25, 6.0, 1.5, schedule) == pytest.approx(quarter)
        assert softened(1.0, 6.0, 1.5, schedule) == pytest.approx(end)
        assert softened(1.7, 6.0, 1.5, schedule) == pytest.approx(end)

    def test_may_rise(self) -> None:
        values = [softened(step / 10, 1.0, 5.0, "cosine") for step in range(11)]
        assert values == sorted(values) and values[-1] == 5.0


class TestTeacherShare:
    """All of it at the start; how it falls is the schedule."""

    @pytest.mark.parametrize("schedule", WEIGHT_SCHEDULES)
    def test_starts_whole(self, schedule: str) -> None:
        assert share(0.0, schedule) == 1.0

    def test_on_the_way_and_at_the_end(self) -> None:
        assert [share(p, "constant") for p in (0.5, 1.0)] == [1.0, 1.0]
        assert share(0.5, "cosine") == pytest.approx((1 + LEAST_SHARE) / 2)
        assert share(1.0, "cosine") == share(1.5, "cosine") == pytest.approx(LEAST_SHARE)
        assert share(OFF_FROM - 1e-6, "off_at_end") == 1.0
        assert share(OFF_FROM, "off_at_end") == share(1.0, "off_at_end") == 0.0
