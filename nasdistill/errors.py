"""Errors a person can meet, each with the exit code the command line gives it.

`cli.main` catches `NasdistillError` and its subclasses, and what a disk says that is full or not to be written; anything else
is a bug and keeps its traceback.
"""


class NasdistillError(Exception):
    """Base of all errors that are reported as one line, without a traceback."""

    exit_code = 1


class InputError(NasdistillError):
    """Wrong usage or wrong input: the message names file, key or argument, what was found and what is allowed."""

    exit_code = 2


class NothingSucceededError(NasdistillError):
    """A search or command ran as asked, but no trial gave a usable result."""

    exit_code = 3


class InterruptedSearchError(NasdistillError):
    """The person stopped a search (Ctrl-C). Everything finished is kept; `--resume` goes on."""

    exit_code = 130


class SpaceExhaustedError(NasdistillError):
    """A sampler has no point left to propose: all have been tried, or cannot be built."""


class TrialError(NasdistillError):
    """A trial cannot give a result; its message becomes the trial's `reason`. The search goes on."""


class DeadlineReachedError(NasdistillError):
    """The budget ran out in the middle of a trial: the trial is `stopped`, never scored."""
