"""What is found when a network is traced: rows of numbered channels, which of them are equal, and the runs they form."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Numbers = np.ndarray
"""Channel numbers along one axis, (channels,) int64."""


@dataclass(frozen=True)
class Run:
    """Neighbouring channels that are neighbours wherever they are read.

    `origin` names the operation that made them and their place in its output; equal in networks of one family. Runs of
    one `group` hold the same channels: they are permuted and pruned together.
    """

    origin: str
    size: int
    group: int


Runs = tuple[Run, ...]


@dataclass(frozen=True)
class ChannelGraph:
    """The runs along the axes of a model's tensors.

    Attributes:
        axes: tensor name -> its leading axes, each a row of runs. Tensors that are missing were not followed.
        locked: groups that an operation reads which is not followed; they keep their channels and their order.
        fixed: groups whose sizes are written down in a module; they keep their number of channels.
        unfollowed: operations that are not followed -> the channel counts they depend on.
        sums: places where two maps are added or multiplied, by module.
        widths: name of a convolution's weight -> cells along a side of its output.
    """

    axes: Mapping[str, tuple[Runs, ...]]
    locked: frozenset[int]
    fixed: frozenset[int]
    unfollowed: Mapping[str, tuple[int, ...]]
    sums: frozenset[str]
    widths: Mapping[str, int]

    def prunable(self) -> frozenset[int]:
        """Groups that may lose channels."""
        everything = {run.group for axes in self.axes.values() for runs in axes for run in runs}
        return frozenset(everything - self.locked - self.fixed)


class Channels:
    """Numbered channels; equal ones are joined in a union-find forest whose roots hold flags."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._starts: list[bool] = []  # flags of roots: a run starts here
        self._locked: list[bool] = []
        self._fixed: list[bool] = []
        self._producer: list[tuple[str, int]] = []  # of each channel: its maker's name and first number

    def fresh(self, count: int, producer: str, locked: bool = False) -> Numbers:
        """New channels; the first one starts a run."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        self._starts += [index == 0 for index in range(count)]
        self._locked += [locked] * count
        self._fixed += [False] * count
        self._producer += [(producer, first)] * count
        return np.arange(first, first + count)

    def join(self, first: Numbers, second: Numbers) -> None:
        """The two rows hold the same channels from now on."""
        for one, two in zip(first.tolist(), second.tolist(), strict=True):
            root, other = self._root(one), self._root(two)
            if root != other:
                self._parent[other] = root
                for flags in (self._starts, self._locked, self._fixed):
                    flags[root] = flags[root] or flags[other]

    def start_run(self, numbers: Numbers, place: int) -> None:
        """A run starts at `place` of a row."""
        if 0 < place < len(numbers):
            self._starts[self._root(int(numbers[place]))] = True

    def lock(self, numbers: Numbers) -> None:
        """An operation reads the row that is not followed: it keeps its channels and their order."""
        for number in numbers.tolist():
            self._locked[self._root(number)] = True

    def fix(self, numbers: Numbers) -> None:
        """The size of the row is written down in a module: it keeps its number of channels."""
        for number in numbers.tolist():
            self._fixed[self._root(number)] = True

    def level(self, chunks: Sequence[Sequence[Numbers]]) -> None:
        """The parts of a chunk are as wide as one another: where one keeps its channels, all do."""
        while any([self._level(parts) for parts in chunks]):
            pass

    def runs_of(
        self, rows_of: Mapping[str, tuple[Numbers, ...]]
    ) -> tuple[dict[str, tuple[Runs, ...]], frozenset[int], frozenset[int]]:
        """The runs along rows by name; the groups that are locked, those with rows that differ among them; those fixed."""
        roots = np.array([self._root(number) for number in range(len(self._parent))])
        starts, locked, fixed = (np.array(flags)[roots] for flags in (self._starts, self._locked, self._fixed))
        before = np.concatenate([[0], np.cumsum(starts)])  # runs that start before a channel
        members: dict[int, Numbers] = {}
        locked_groups, fixed_groups = set[int](), set[int]()

        def runs(row: Numbers) -> Iterator[Run]:
            begins = np.flatnonzero(starts[row] | (np.arange(len(row)) == 0)).tolist()
            for begin, end in zip(begins, [*begins[1:], len(row)], strict=True):
                part = row[begin:end]
                group = int(roots[part[0]])
                same = np.array_equal(members.setdefault(group, roots[part]), roots[part])
                if locked[part].any() or not same:
                    locked_groups.add(group)
                if fixed[part].any():
                    fixed_groups.add(group)
                producer, origin = self._producer[int(part[0])]
                yield Run(f"{producer}#{before[part[0]] - before[origin]}", len(part), group)

        found = {name: tuple(tuple(runs(row)) for row in rows) for name, rows in rows_of.items()}
        return found, frozenset(locked_groups), frozenset(fixed_groups)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def _level(self, parts: Sequence[Numbers]) -> bool:
        """Returns whether that fixed any."""
        roots = [[self._root(number) for number in part.tolist()] for part in parts]
        keeps = [self._locked[root] or self._fixed[root] for part in roots for root in part]
        shapes = {tuple(place for place, root in enumerate(part) if self._starts[root]) for part in roots}
        if all(keeps) or not (any(keeps) or len(shapes) > 1):
            return False
        for part in parts:
            self.fix(part)
        return True
