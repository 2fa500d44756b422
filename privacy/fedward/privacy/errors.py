"""The tree of Fedward's errors.

Every error says what was expected, what came, and what to do; `code` names it in logs, `--json` and replies, and
`exit_code` is what the command line returns. Messages carry names of fields, files and sites, never patient values.

    FedwardError (1)
    ├── UsageError (2)       a command was called in a way that cannot work
    ├── InputError (3)       a file, manifest, mapping or data set is not what it must be
    ├── RefusalError (4)     a policy, an approval or a privacy budget says no
    ├── IntegrityError (5)   a signature, digest or chain does not hold
    └── UnreachableError (6) another party or a port cannot be reached or used now
"""

from __future__ import annotations

from typing import ClassVar


class FedwardError(Exception):
    """Base of all errors that Fedward raises on purpose."""

    exit_code: ClassVar[int] = 1
    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        what: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
        code: str | None = None,
    ) -> None:
        self.what = what
        self.expected = expected
        self.got = got
        self.remedy = remedy
        self.code = code or self.default_code
        super().__init__(self.text())

    def text(self) -> str:
        """The whole error in one paragraph."""
        parts = [self.what.rstrip(".") + "."]
        if self.expected is not None:
            parts.append(f"Expected {self.expected.rstrip('.')}.")
        if self.got is not None:
            parts.append(f"Got {self.got.rstrip('.')}.")
        if self.remedy is not None:
            parts.append(f"To fix it: {self.remedy.rstrip('.')}.")
        return " ".join(parts)

    def as_json(self) -> dict[str, str | int | None]:
        """The error as `--json` prints it."""
        return {
            "error": self.code,
            "what": self.what,
            "expected": self.expected,
            "got": self.got,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


class UsageError(FedwardError):
    exit_code = 2
    default_code = "usage"


class InputError(FedwardError):
    exit_code = 3
    default_code = "bad-input"


class RefusalError(FedwardError):
    exit_code = 4
    default_code = "refused"


class IntegrityError(FedwardError):
    exit_code = 5
    default_code = "integrity"


class UnreachableError(FedwardError):
    exit_code = 6
    default_code = "unreachable"
