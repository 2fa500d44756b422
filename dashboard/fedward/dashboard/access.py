"""Who may see what of the monitor, from the claims of a sign-in and the rules of an access file. Pure: no clock, file or page.

- Nobody is known but by claims that the provider signed: `iss` is the provider, `aud` this client, and `sub` is not empty.
- A session ends with the sign-in's own `exp`, and `session_minutes` after its `iat`, whichever is first.
- The first rule that fits decides. A rule by address fits only if `email_verified` is true; a rule by group, if the claim is a list
  that has it. What is missing, of another type or not a number fits nothing, and raises nothing.
- Whoever no rule names is denied, at every look: a rule that is taken away ends a session that it began.

Claims: OpenID Connect Core 1.0, sections 2 and 5.1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Role = Literal["coordinator", "auditor", "viewer", "hospital"]
Claims = Mapping[str, object]

ROLES: Final[Mapping[Role, str]] = {
    "coordinator": "sees everything",
    "auditor": "sees everything",
    "hospital": "sees sums and groups, and the details of its own site",
    "viewer": "sees sums and groups, and no site's details",
}
_DETAILED: Final = frozenset({"coordinator", "auditor"})
_PAGES: Final[Mapping[Role, frozenset[str]]] = {
    "hospital": frozenset({"study", "accuracy", "fairness", "privacy", "participation", "models", "audit"}),
    "viewer": frozenset({"study", "accuracy", "fairness", "models"}),
}
"""What those see who do not see everything: a page that nobody thought of here is not theirs."""

SKEW_S: Final = 60
"""How far the provider's clock may be ahead of this machine's."""
_LAST: Final = 1e11
"""An instant in seconds is below this, or it is none."""


@dataclass(frozen=True)
class Granted:
    """Who looks: in which role, for which site (a hospital), until when (unix time; None where nobody needs to sign in)."""

    role: Role
    site: str | None
    until: float | None
    who: str = ""


@dataclass(frozen=True)
class Denied:
    """Why not, as a sentence for the one who looks, and its name. `who`: whom the provider vouched for, if anybody."""

    why: str
    code: str
    who: str = ""


Decision = Granted | Denied

LOCAL: Final = Granted("coordinator", None, None)
"""Whoever can reach a port of this machine alone."""


class Rule(Protocol):
    """What `accessfile.Allow` has."""

    @property
    def subject(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...
    @property
    def role(self) -> Role: ...
    @property
    def site(self) -> str | None: ...


@dataclass(frozen=True)
class Rules:
    """What decides: the provider, this monitor's name there, how long a session lasts, and whom it lets in."""

    issuer: str
    client_id: str
    session_minutes: int
    groups_claim: str
    allow: Sequence[Rule]


def decide(claims: Claims, now: float, rules: Rules) -> Decision:
    """Whether the claims of a sign-in admit somebody at this moment (unix time)."""
    subject = _subject(claims, rules)
    if isinstance(subject, Denied):
        return subject
    who = _shown(claims, subject)
    until = _until(claims, now, rules.session_minutes, who)
    if isinstance(until, Denied):
        return until
    for rule in rules.allow:
        if _fits(rule, claims, subject, rules.groups_claim):
            return Granted(rule.role, rule.site, until, who)
    return Denied("This account is not on the monitor's list.", "not-on-the-list", who)


def _subject(claims: Claims, rules: Rules) -> str | Denied:
    """Whom the right provider vouches for, to this monitor."""
    if claims.get("is_logged_in") is not True:
        return Denied("Nobody is signed in.", "not-signed-in")
    if not _from(claims.get("iss"), rules.issuer):
        return Denied("The sign-in is of another provider.", "foreign-issuer")
    if not _for(claims, rules.client_id):
        return Denied("The sign-in was made for another application.", "foreign-audience")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject.strip():
        return Denied("The sign-in names nobody.", "no-subject")
    return subject


def _until(claims: Claims, now: float, minutes: int, who: str) -> float | Denied:
    """When a session ends that has begun and not ended."""
    began, ends = _instant(claims.get("iat")), _instant(claims.get("exp"))
    if began is None or ends is None:
        return Denied("The sign-in does not say from when until when it holds.", "no-times", who)
    if not began <= now + SKEW_S:
        return Denied(
            "The sign-in is of the future: the clocks of provider and monitor differ.", "sign-in-of-the-future", who
        )
    until = min(ends, began + minutes * 60)
    return until if now < until else Denied("The session has ended.", "session-ended", who)


def visible(granted: Granted, page: str) -> bool:
    """Whether a role has a page, by the last part of its address."""
    return sees_all(granted) or page in _PAGES.get(granted.role, frozenset())


def sees_all(granted: Granted) -> bool:
    """Whether a role sees a record whole, with every site's part."""
    return granted.role in _DETAILED


def sees_study(granted: Granted, sites: Collection[str]) -> bool:
    """Whether a role sees that there is a study that these sites were invited to: a hospital, of its own studies alone."""
    return sees_all(granted) or granted.role == "viewer" or (granted.role == "hospital" and granted.site in sites)


def site_details(granted: Granted, site: str) -> bool:
    """Whether a role sees a site's name beside what it did: reasons, times and numbers of its own."""
    return sees_all(granted) or (granted.role == "hospital" and granted.site == site)


def _fits(rule: Rule, claims: Claims, subject: str, groups_claim: str) -> bool:
    if rule.subject is not None:
        return rule.subject == subject
    if rule.email is not None:
        return claims.get("email_verified") is True and claims.get("email") == rule.email
    groups = claims.get(groups_claim)
    return rule.group is not None and isinstance(groups, (list, tuple)) and rule.group in groups


def _from(issuer: object, expected: str) -> bool:
    """Some providers end their name with a stroke and some do not."""
    return isinstance(issuer, str) and issuer.removesuffix("/") == expected.removesuffix("/")


def _for(claims: Claims, client_id: str) -> bool:
    """OpenID Connect Core 1.0, section 3.1.3.7, steps 3 to 5."""
    audience, party = claims.get("aud"), claims.get("azp")
    if party is not None and party != client_id:
        return False
    if isinstance(audience, (list, tuple)):
        return client_id in audience and (len(audience) == 1 or party == client_id)
    return isinstance(audience, str) and audience == client_id


def _instant(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _LAST:
        return None
    return float(value)


def _shown(claims: Claims, subject: str) -> str:
    email = claims.get("email")
    return email if isinstance(email, str) and email and claims.get("email_verified") is True else subject
