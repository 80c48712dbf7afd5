"""How much the teacher counts on each view: more where there is much to learn, less where it is wrong.

Dynamic participation by image complexity and by the teacher's reliability. The weights of a pool have mean 1, so that
they shift attention between views without changing how much the teacher counts as a whole.
"""

import numpy as np

PARTICIPATIONS = ("complexity", "error", "both")
LEAST_TRUST = 0.1  # a teacher that gets all of a view's labels wrong still counts for this much
STEEPNESS = 0.5  # complexity moves a weight by at most this share


def participation(facts_n3: np.ndarray, mode: str) -> np.ndarray:
    """Weights (n,) above 0 with mean 1 from entropy of the scores, number of objects and error (0..1) of each view.

    complexity: 1 + tanh(z) / 2, z the mean of the standardised entropy and object count. error: 1 - error, at least 0.1.
    both: their product.

    Raises:
        KeyError: unknown mode (search spaces are checked before they get here).
    """
    facts = facts_n3.astype(np.float64)
    complexity = 1.0 + STEEPNESS * np.tanh((_standardised(facts[:, 0]) + _standardised(facts[:, 1])) / 2)
    trust = np.maximum(1.0 - facts[:, 2], LEAST_TRUST)
    weights = {"complexity": complexity, "error": trust, "both": complexity * trust}[mode]
    return np.asarray(weights / weights.mean())


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
