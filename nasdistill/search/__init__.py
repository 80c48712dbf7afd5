"""The search engine: what to try next (Optuna), on which worker (Ray), and when to stop. It knows nothing of torch.

A search is `runner.run_search(space, make_worker, run, …)`. The parts, in the order a trial meets them: `proposals`
chooses parameters, `searcher` hands them to Ray Tune within the `budget`, `trainable` runs them on a warm worker,
`ledger` writes the outcome down before anything else hears of it. This file imports none of them: ray takes a second.
"""

import os

# Read by Ray when it is imported. Under `uv run` it would otherwise copy the whole current folder to every worker and start
# them there: relative paths of data and teacher would lead nowhere, and each start would take seconds.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
