"""Linear algebra of this process in one thread, for as long as a function takes.

Matrices of a few hundred rows gain nothing from a second thread, and where other processes keep the cores busy, threads
that wait for each other make a suggestion fifteen times as long (docs/decisions.md).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

_ALONE = threading.RLock()
P = ParamSpec("P")
T = TypeVar("T")


def one_threaded(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function whose linear algebra is to take one thread; of several Python threads one at a time.

    The limit is that of the process. Of two that overlap, threadpoolctl lets the later one give back what the earlier one had
    set, and one thread it stays.
    """

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with _ALONE, _linear_algebra().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return alone


@functools.cache
def _linear_algebra() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 (has a library of its own, which must have been loaded to be found)

    return ThreadpoolController()
