"""The search engine: what to try next (Optuna), on which worker (Ray), and when to stop. It knows nothing of torch.

A search is `runner.run_search(space, make_worker, run, …)`. The parts, in the order a trial meets them: `proposals`
chooses parameters, `searcher` hands them to Ray Tune within the `budget`, `trainable` runs them on a warm worker,
`ledger` writes the outcome down before anything else hears of it. This file imports none of them: ray takes a second.

`LatencyFirstSampler` works outside nasdistill too: an Optuna sampler for studies in which one objective is known, or
can be measured, before the expensive one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasdistill.search.latency_first import LatencyFirstSampler

__all__ = ["LatencyFirstSampler"]


def __getattr__(name: str) -> Any:
    """Import the sampler, and Optuna with it, only when it is asked for."""
    if name != "LatencyFirstSampler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nasdistill.search.latency_first import LatencyFirstSampler

    return LatencyFirstSampler
