"""What a trial is expected to take, before it is started."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nasdistill.records import TrialResult
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.search.searcher import StudySearcher


def complete(number: int, family: str, seconds: float) -> TrialResult:
    scores = {"fidelity": 1.0, "map50": 0.5, "map50_95": 0.4, "latency_ms": 3.0, "epochs": 2}
    values = {"trial": number, "state": "complete", "family": family, "seconds": seconds, "params": {"family": family}}
    return TrialResult.model_validate({**values, **scores})


@pytest.mark.parametrize(
    ("of_b", "learnt", "expected"),
    [
        (1, 150.0, {"a": 150.0, "b": 200.0}),  # the estimate is twice too long, of all trials
        (1, 350.0, {"a": 350.0, "b": 350.0}),
        (3, 150.0, {"a": 150.0, "b": 150.0}),
        (1, None, {"a": 50.0, "b": 200.0}),
    ],
)
def test_of_a_family_that_is_hardly_known_the_longer_answer_counts(
    of_b: int, learnt: float | None, expected: dict[str, float]
) -> None:
    estimates = {"a": 100.0, "b": 400.0}
    done = [complete(number, "a", 50.0) for number in range(6)] + [complete(6 + n, "b", 200.0) for n in range(of_b)]
    proposals = SimpleNamespace(expecting_seconds=lambda: None if learnt is None else lambda params: learnt)
    searcher = StudySearcher(
        proposals,  # type: ignore[arg-type]
        SimpleNamespace(finished=done),  # type: ignore[arg-type]
        BudgetClock(parse_budget("300s")),
        None,  # type: ignore[arg-type]
        workers=2,
        estimate=lambda params: estimates[str(params["family"])],
    )
    answer = searcher._expecting()
    assert {family: answer({"family": family}) for family in expected} == pytest.approx(expected)
    left = searcher._fitting()
    assert left({"family": "b"}) == (expected["b"] < 300)


def test_estimates_follow_the_median_factor_and_a_margin_is_kept() -> None:
    def of(budget: str, hook: bool = True) -> StudySearcher:
        done = [complete(number, "a", seconds) for number, seconds in enumerate((150.0, 240.0, 300.0))]
        return StudySearcher(
            None,  # type: ignore[arg-type]
            SimpleNamespace(finished=done),  # type: ignore[arg-type]
            BudgetClock(parse_budget(budget)),
            None,  # type: ignore[arg-type]
            workers=2,
            estimate=(lambda params: {"a": 100.0, "b": 400.0}[str(params["family"])]) if hook else None,
        )

    answer = of("1000s")._expecting()
    assert [answer({"family": family}) for family in "ab"] == pytest.approx([240.0, 960.0])
    assert of("1000s", hook=False)._expecting()({}) == 240.0
    fits = of("1000s")._fitting()
    assert fits({"family": "a"}) and not fits({"family": "b"}), "960 s and a tenth are more than is left"
    assert of("500s")._scarce() and not of("1000s")._scarce()


def epochs_searcher(budget: str, workers: int, results: list[TrialResult]) -> StudySearcher:
    clock = BudgetClock.resumed(parse_budget(budget), results)
    draft = SimpleNamespace(params={"family": "a"}, origin="sampler")
    return StudySearcher(
        SimpleNamespace(ask=lambda possible: draft, withdraw=lambda draft: None),  # type: ignore[arg-type]
        SimpleNamespace(  # type: ignore[arg-type]
            finished=[], start=lambda draft: (0, Path("trials/0")), room=SimpleNamespace(there=lambda: True)
        ),
        clock,
        SimpleNamespace(reason=None, trial_deadline=None, stop_file=Path("stop")),  # type: ignore[arg-type]
        workers=workers,
        results=results,
        trial_epochs=3,
    )


@pytest.mark.parametrize(("budget", "trials"), [("8epochs", 2), ("2epochs", 1)])
def test_an_epoch_budget_is_not_overrun_by_many_workers(budget: str, trials: int) -> None:
    """But something is trained, however small it is."""
    searcher = epochs_searcher(budget, workers=3, results=[])
    assert sum(isinstance(searcher.suggest(str(number)), dict) for number in range(3)) == trials


@pytest.mark.parametrize(("earlier", "starts"), [("complete", False), ("rejected", True)])
def test_a_resumed_epoch_budget_is_not_overrun_either(earlier: str, starts: bool) -> None:
    trained = complete(0, "a", 9.0).model_copy(update={"epochs": 3})
    if earlier == "rejected":  # before it was trained
        trained = TrialResult(trial=0, state="rejected", family="a", reason="too slow", params={})
    searcher = epochs_searcher("5epochs" if earlier == "complete" else "2epochs", workers=1, results=[trained])
    assert isinstance(searcher.suggest("1"), dict) is starts


def test_once_a_point_is_too_long_the_sampler_is_told_what_fits() -> None:
    """Or its favourite family is refused until the search gives up, though another one fits."""
    asked: list[bool] = []

    def ask(possible: object) -> SimpleNamespace:
        asked.append(possible is not None)
        return SimpleNamespace(params={"family": "a" if possible else "b"}, origin="sampler")

    proposals = SimpleNamespace(ask=ask, withdraw=lambda draft: None, expecting_seconds=lambda: lambda params: 20.0)
    ledger = SimpleNamespace(
        finished=[complete(number, "a", 50.0) for number in range(6)],
        start=lambda draft: (7, Path("trials/7")),
    )
    stop = SimpleNamespace(reason=None, trial_deadline=None, stop_file=Path("stop"))
    searcher = StudySearcher(
        proposals,  # type: ignore[arg-type]
        ledger,  # type: ignore[arg-type]
        BudgetClock(parse_budget("300s")),
        stop,  # type: ignore[arg-type]
        workers=2,
        estimate=lambda params: {"a": 100.0, "b": 1000.0}[str(params["family"])],
    )
    job = searcher._next_job()
    assert job is not None and job.params == {"family": "a"} and asked == [False, True]
