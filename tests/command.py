"""`fedward` as a test calls it: in this process, with its exit code and what it printed."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from fedward.cli.main import run


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object that the command printed. Raises: AssertionError, if it printed anything else."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"expected one line of JSON on standard output, got {self.out!r} and {self.err!r}"
        value = json.loads(lines[0])
        assert isinstance(value, dict), f"expected a JSON object, got {value!r}"
        return value


def fedward(*arguments: object) -> Ran:
    """Run a command. An exception that the command lets through fails the test: users would see a traceback."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
    return Ran(code, out.getvalue(), err.getvalue())


def good(*arguments: object) -> dict[str, Any]:
    """The JSON object of a command that works, run with `--json`."""
    ran = fedward(*arguments, "--json")
    assert ran.code == 0, f"fedward {' '.join(map(str, arguments))}: exit code {ran.code}: {ran.out} {ran.err}"
    return ran.json
