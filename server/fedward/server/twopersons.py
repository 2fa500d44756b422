"""The two-person rule in a coordinator's home: its policy and the requests that wait, as files; `seconding` has the rules.

A file that is damaged lets nobody act. Who can write the home could change the files, as everything else in it: the rule binds
operators, and the audit log tells of each change that was made by command.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedward.privacy.errors import InputError, UsageError
from fedward.server.home import CoordinatorHome
from fedward.server.operators import LOCAL, Operators
from fedward.server.seconding import CHANGE_POLICY, Asker, Policy, Request, second_needed, seconded, waiting
from fedward.study.fields import Part
from fedward.study.files import read_model, write_atomic
from fedward.study.lock import hold
from fedward.study.releases import Override, Signed

PATIENCE_S = 10.0


class _Requests(Part):
    format: Annotated[int, Field(ge=1, le=1)] = 1
    requests: tuple[Request, ...] = ()


@dataclass(frozen=True)
class TwoPersons:
    """The rule of one federation."""

    home: CoordinatorHome

    def policy(self) -> Policy:
        """
        Raises:
            InputError: the file is damaged.
        """
        path = self.home.policy_file
        return read_model(path, Policy, "policy of a federation") if path.is_file() else Policy()

    def requests(self, now: int) -> tuple[Request, ...]:
        """What waits for a second person, oldest first.

        Raises:
            InputError: a file is damaged.
        """
        path = self.home.requests_file
        known = read_model(path, _Requests, "list of requests").requests if path.is_file() else ()
        return waiting(known, self._coordinators(now), now)

    def demand(
        self,
        action: str,
        target: str,
        about: str,
        asker: Asker,
        now: int,
        signing: tuple[Override, Signed] | None = None,
    ) -> Request | None:
        """Let an action happen, once, or leave a request for it.

        Args:
            action: one of `ACTIONS`, `CHANGE_POLICY` or `OVERRIDE`.
            target: the digest of what it is done to; `about` is its name.
            signing: what this person has signed of an override of gates.

        Returns:
            what was asked first; None where the policy asks for one person only.

        Raises:
            RefusalError: `second-person-needed`: a request waits now; `second-too-new`.
            InputError: a file is damaged; errors as `CoordinatorHome.record`, and then nothing is changed.
        """
        with self._held():
            policy = self.policy()
            if not policy.needs_two(action):
                return None
            known = self.requests(now)
            found = seconded(known, action, target, asker)
            if found is not None:
                self._record("request-seconded", found, asker.name)
                self._save(tuple(one for one in known if one is not found))
                return found
            override, signed = signing or (None, None)
            made = Request(
                reference=secrets.token_hex(6), action=action, target=target, about=about, by=asker.name, at=now,
                expires_at=now + policy.hours * 3600, override=override, signed=signed,
            )  # fmt: skip
            self._record("requested", made, asker.name)
            self._save((*known, made))
            raise second_needed(made)

    def withdraw(self, reference: str, by: str, now: int) -> Request:
        """
        Raises:
            InputError: no such request waits.
        """
        with self._held():
            known = self.requests(now)
            found = next((one for one in known if one.reference == reference), None)
            if found is None:
                raise InputError("no such request waits", remedy="see `fedward coordinator requests`")
            self._record("request-withdrawn", found, by)
            self._save(tuple(one for one in known if one is not found))
            return found

    def change(self, policy: Policy, asker: Asker, now: int) -> None:
        """Put another policy in force; while two persons are asked for anything, it takes two. Errors as `demand`."""
        before, digest = self.policy(), _digest(policy)
        first = self.demand(CHANGE_POLICY, digest, f"two persons for {_words(policy)}", asker, now)
        other = None if first is None else first.by
        self.home.record("policy-changed", digest=digest, previous=_digest(before), by=asker.name, other=other)
        write_atomic(self.home.policy_file, policy.model_dump_json(indent=1).encode(), 0o600)

    def _coordinators(self, now: int) -> frozenset[str]:
        """Who has access as a coordinator. This machine's own never ends."""
        listed = Operators(self.home).all()
        living = (one for one in listed if one.role == "coordinator" and not one.removed_at and now < one.expires_at)
        return frozenset({LOCAL, *(one.name for one in living)})

    def _record(self, kind: str, request: Request, by: str) -> None:
        other = request.by if request.by != by else None
        self.home.record(
            kind, by=by, other=other, purpose=request.action, digest=request.target, reference=request.reference
        )

    def _save(self, requests: tuple[Request, ...]) -> None:
        write_atomic(self.home.requests_file, _Requests(requests=requests).model_dump_json(indent=1).encode(), 0o600)

    def _held(self) -> AbstractContextManager[None]:
        busy = UsageError("requests are being changed by another command", remedy="try again")
        return hold(self.home.path / "requests.lock", PATIENCE_S, lambda: busy)


def _digest(policy: Policy) -> str:
    return hashlib.sha256(policy.model_dump_json().encode()).hexdigest()


def _words(policy: Policy) -> str:
    return ", ".join(policy.two_persons) or "nothing"
