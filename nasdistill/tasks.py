"""Work that a run hands to its worker processes, and how it says how far it is."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

Report = Callable[[str], None]
"""Takes what there is to say: the share of the work that is done, "0.125", or words of a trial."""
Task = Callable[[Report], T]
"""Picklable; what it returns goes back to the run."""
