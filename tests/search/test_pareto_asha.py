"""Early stopping on a real Ray: who is stopped, what is kept of it, and what a resumed search knows."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from ray.tune.schedulers import TrialScheduler
from search_workers import CaseSpace, FileRun, scored

from nasdistill.errors import InputError
from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import DEFAULT, LATENCY_MS, MAP50_95, Objectives
from nasdistill.records import RungScore, TrialResult
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.search.cluster import environment, start_ray
from nasdistill.search.known import FIDELITY, PARTIAL_VALUES
from nasdistill.search.pareto_asha import SCORE, ParetoAsha
from nasdistill.search.reconcile import partial_of
from nasdistill.search.runner import run_search
from nasdistill.search.worker import TrialJob
from nasdistill.store.rungs import TRAINING_NAME, all_rung_scores, read_rung_scores, write_rung_scores

# accuracy and latency of each case, those of little training being in the same order
CASES = {"good": (0.8, 2.0), "fast": (0.5, 1.0), "slow": (0.9, 4.0), "bad": (0.2, 5.0), "worse": (0.1, 6.0)}


@pytest.fixture(scope="module", autouse=True)
def one_worker() -> Iterator[None]:
    with environment({"PYTHONPATH": str(Path(__file__).parent)}), start_ray(1, gpus=0):
        yield


def rung_score(trial: int, case: str, rung: int = 0) -> RungScore:
    accuracy, latency_ms = CASES.get(case, (0.4, 3.0))
    share = (rung + 1) / 3
    figures = {"params_m": 1.0, "gflops": 1.0, "size_mb": 1.0, "latency_p90_ms": latency_ms}
    return RungScore(
        trial=trial,
        rung=rung,
        epochs=rung + 1,
        fidelity=share,
        map50=accuracy * share,
        map50_95=accuracy * share,
        latency_ms=latency_ms,
        **figures,
    )


class RungWorker:
    """Trials of three epochs with two rungs, kept as a trial keeps them."""

    def run(self, job: TrialJob, report: Callable[[str], None]) -> Generator[RungScore, None, TrialResult]:
        case, scores = str(job.params["case"]), read_rung_scores(job.folder)
        print(f"{case}, attempt {job.attempt}")
        try:
            for rung in range(len(scores), 2):
                score = rung_score(job.trial, case, rung)
                (job.folder / TRAINING_NAME).write_bytes(b"training so far")
                if case == "nan":
                    score = score.model_copy(update={"map50_95": math.nan})
                scores.append(score)
                if case != "nan":
                    write_rung_scores(job.folder, scores)
                yield score
                if case == "die" and job.attempt == 0:
                    os._exit(1)
        except GeneratorExit:
            (job.folder / "closed").touch()
            raise
        accuracy, latency_ms = CASES.get(case, (0.4, 3.0))
        return scored(job, accuracy, latency_ms, epochs=3, fidelity=1.0)


def search(path: Path, *cases: str, scheduler: str = "pareto-asha", **more: object) -> dict[str, TrialResult]:
    results = run_search(
        CaseSpace(*cases),
        RungWorker,
        FileRun(path),
        parse_budget("40trials"),
        scheduler=scheduler,
        rung_scores=all_rung_scores(path),
        **more,
    )
    return {str(result.params["case"]): result for result in results}


def test_the_dominated_stop_and_keep_what_they_scored(tmp_path: Path) -> None:
    found = search(tmp_path, *CASES)
    states = {case: result.state for case, result in found.items()}
    assert states == {"good": "complete", "fast": "complete", "slow": "complete", "bad": "stopped", "worse": "stopped"}
    bad = found["bad"]
    assert (bad.fidelity, bad.epochs, bad.latency_ms) == (pytest.approx(1 / 3), 1, 5.0)
    assert bad.map50_95 == pytest.approx(0.2 / 3) and bad.reason == "early, after epoch 1: others were better there"
    assert (tmp_path / "trials" / str(bad.trial) / "closed").exists()
    assert {str(result.params["case"]) for result in front(list(found.values()))} == {"good", "fast", "slow"}
    told = partial_of(bad, (MAP50_95, LATENCY_MS))
    assert told == {FIDELITY: bad.fidelity, PARTIAL_VALUES: [bad.map50_95, 5.0]}
    assert partial_of(found["good"], (MAP50_95, LATENCY_MS)) == {}
    clock = BudgetClock.resumed(parse_budget("40trials"), found.values())
    assert clock.used == 5  # a trial that was stopped early is done
    epochs = BudgetClock.resumed(parse_budget("40epochs"), found.values())
    assert epochs.used == 3 * 3 + 2 * 1


@pytest.mark.slow
def test_a_score_that_is_no_number_and_a_worker_that_dies(tmp_path: Path) -> None:
    found = search(tmp_path, "nan", "die")
    assert found["nan"].state == "failed" and "map50_95" in found["nan"].reason
    assert not (tmp_path / "trials" / str(found["nan"].trial) / TRAINING_NAME).exists()
    assert found["die"].state == "complete"
    log = (tmp_path / "trials" / str(found["die"].trial) / "log.txt").read_text()
    assert "attempt 1" in log
    # the second worker found the first one's rung and did not repeat it
    assert [score.rung for score in read_rung_scores(tmp_path / "trials" / str(found["die"].trial))] == [0, 1]


def test_a_resumed_search_decides_by_earlier_scores_and_goes_on_with_what_was_interrupted(tmp_path: Path) -> None:
    first = search(tmp_path, "good", "fast", "slow", "worse", scheduler="none")
    assert {result.state for result in first.values()} == {"complete"}, "without a scheduler all go on"
    assert len(all_rung_scores(tmp_path)) == 8
    run = FileRun(tmp_path)
    interrupted = TrialResult(trial=4, state="stopped", family="", reason="interrupted", params={"case": "die"})
    run.write_trial(interrupted)
    (run.trial_folder(4) / "rung.safetensors").write_bytes(b"training so far")
    found = search(tmp_path, "good", "fast", "slow", "worse", "bad", "die")
    assert found["bad"].state == "stopped"  # the first to come in this part, and stopped at once
    again = next(r for r in run.results() if r.params["case"] == "die" and r.trial != 4)
    assert (run.trial_folder(again.trial) / "rung.safetensors").read_bytes() == b"training so far"
    assert not (run.trial_folder(4) / "rung.safetensors").exists()


def test_scores_of_several_objectives_are_compared(tmp_path: Path) -> None:
    asha = ParetoAsha((MAP50_95, LATENCY_MS), [rung_score(i, case) for i, case in enumerate(("good", "fast", "slow"))])
    decisions = {
        case: asha.on_trial_result(None, None, {"rung": rung_score(9, case).model_dump_json()}) for case in CASES
    }
    assert decisions["bad"] == decisions["worse"] == "STOP"
    assert decisions["good"] == decisions["slow"] == "CONTINUE"
    assert asha.on_trial_result(None, None, {"result": "…", "done": True}) == "CONTINUE"


def test_an_unknown_scheduler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown scheduler 'asha'; allowed: none, pareto-asha"):
        search(tmp_path, "good", scheduler="asha")


def test_a_trial_goes_on_for_the_sake_of_any_objective() -> None:
    """ "bad" is beaten in accuracy and latency, but nothing is as fast on the phone."""
    scores = [
        rung_score(trial, case).model_copy(update={"further": {"latency_ms@phone": 1.0 if case == "bad" else 5.0}})
        for trial, case in enumerate(("good", "fast", "slow", "bad"))
    ]

    def decision(objectives: Objectives) -> str:
        scheduler = ParetoAsha(objectives, scores[:-1])
        return scheduler.on_trial_result(None, None, {SCORE: scores[-1].model_dump_json()})  # type: ignore[arg-type]

    assert decision(DEFAULT) == TrialScheduler.STOP
    assert decision(DEFAULT.against("latency_ms", "latency_ms@phone")) == TrialScheduler.CONTINUE
