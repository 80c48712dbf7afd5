"""The search engine: what to try next (Optuna), on which worker (Ray), and when to stop. It knows nothing of torch.

A search is `runner.run_search(space, make_worker, run, …)`. The parts, in the order a trial meets them: `proposals`
chooses parameters, `searcher` hands them to Ray Tune within the `budget`, `trainable` runs them on a warm worker,
`ledger` writes the outcome down before anything else hears of it. This file imports none of them: ray takes a second.
"""
