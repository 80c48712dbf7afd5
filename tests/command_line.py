"""The command line as the tests call it: in this process, what it prints kept apart."""

import contextlib
import io
import sys
from typing import NamedTuple

import pytest
import torch

from nasdistill import cli


class Outcome(NamedTuple):
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def nasdistill(*arguments: object) -> Outcome:
    """Run one command line; PyTorch's threads are as before."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["nasdistill", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    torch.set_num_threads(threads)
    return Outcome(code, out.getvalue(), err.getvalue())
