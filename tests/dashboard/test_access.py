"""Who is let in, as what, and until when: over claims that no provider should send as well as those that they do."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as some
from visitors import access as said_of
from visitors import written

from fedward.dashboard.access import (
    LOCAL,
    SKEW_S,
    Denied,
    Granted,
    Rules,
    decide,
    sees_all,
    sees_study,
    site_details,
    visible,
)
from fedward.dashboard.accessfile import Access, Allow, client_secret, cookie_secret, load, tls_files
from fedward.privacy.errors import FedwardError, InputError, IntegrityError

NOW = 1_800_000_000.0
ISSUER = "https://id.example.org/realms/heart"
RULES = Rules(
    issuer=ISSUER,
    client_id="fedward-monitor",
    session_minutes=60,
    groups_claim="groups",
    allow=(
        Allow(subject="carol", role="coordinator"),
        Allow(group="cleveland-data", role="hospital", site="cleveland"),
        Allow(email="audit@example.org", role="auditor"),
    ),
)
CAROL: dict[str, Any] = {
    "is_logged_in": True, "iss": ISSUER, "aud": "fedward-monitor", "sub": "carol", "iat": NOW - 60, "exp": NOW + 300,
}  # fmt: skip


def code(**changed: Any) -> str:
    found = decide({name: value for name, value in (CAROL | changed).items() if value is not ...}, NOW, RULES)
    return found.code if isinstance(found, Denied) else found.role


def test_a_person_on_the_list_is_let_in_until_the_sign_in_or_the_session_ends() -> None:
    assert decide(CAROL, NOW, RULES) == Granted("coordinator", None, NOW + 300, "carol")
    assert decide(CAROL | {"exp": NOW + 10**6}, NOW, RULES) == Granted("coordinator", None, NOW - 60 + 3600, "carol")
    assert code(iat=NOW - 3600 + 1, exp=NOW + 10**6) == "coordinator"
    assert code(iat=NOW - 3600, exp=NOW + 10**6) == "session-ended"
    assert code(exp=NOW) == "session-ended"
    assert code(iat=NOW + SKEW_S) == "coordinator"
    assert code(iat=NOW + SKEW_S + 1) == "sign-in-of-the-future"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"is_logged_in": False}, "not-signed-in"),
        ({"is_logged_in": "true"}, "not-signed-in"),
        ({"is_logged_in": 1}, "not-signed-in"),
        ({"is_logged_in": ...}, "not-signed-in"),
        ({"iss": "https://id.example.org/realms/other"}, "foreign-issuer"),
        ({"iss": ISSUER + "//"}, "foreign-issuer"),
        ({"iss": [ISSUER]}, "foreign-issuer"),
        ({"iss": ...}, "foreign-issuer"),
        ({"aud": "another"}, "foreign-audience"),
        ({"aud": ["fedward-monitor", "another"]}, "foreign-audience"),
        ({"aud": ["fedward-monitor"], "azp": "another"}, "foreign-audience"),
        ({"aud": "fedward-monitor", "azp": "another"}, "foreign-audience"),
        ({"aud": []}, "foreign-audience"),
        ({"aud": ...}, "foreign-audience"),
        ({"sub": ""}, "no-subject"),
        ({"sub": " "}, "no-subject"),
        ({"sub": 7}, "no-subject"),
        ({"sub": ...}, "no-subject"),
        ({"exp": math.nan}, "no-times"),
        ({"iat": math.nan}, "no-times"),
        ({"exp": math.inf}, "no-times"),
        ({"exp": str(NOW + 300)}, "no-times"),
        ({"exp": True}, "no-times"),
        ({"iat": 0}, "no-times"),
        ({"iat": 10**400}, "no-times"),
        ({"exp": ...}, "no-times"),
        ({"iat": ...}, "no-times"),
        ({"sub": "mallory"}, "not-on-the-list"),
        ({"sub": "Carol"}, "not-on-the-list"),
        ({"sub": "mallory", "groups": "cleveland-data"}, "not-on-the-list"),
        ({"sub": "mallory", "groups": {"cleveland-data": 1}}, "not-on-the-list"),
        ({"sub": "mallory", "roles": ["cleveland-data"]}, "not-on-the-list"),
        ({"sub": "mallory", "groups": [["cleveland-data"]]}, "not-on-the-list"),
        ({"sub": "mallory", "email": "audit@example.org"}, "not-on-the-list"),
        ({"sub": "mallory", "email": "audit@example.org", "email_verified": "true"}, "not-on-the-list"),
        ({"sub": "mallory", "email": "audit@example.org", "email_verified": 1}, "not-on-the-list"),
        ({"sub": "mallory", "email": "Audit@example.org", "email_verified": True}, "not-on-the-list"),
        ({"sub": "mallory", "email": "audit@example.org", "email_verified": True}, "auditor"),
        ({"sub": "mallory", "groups": ["x", 7, None, "cleveland-data"]}, "hospital"),
        ({"aud": ["fedward-monitor"]}, "coordinator"),
        ({"aud": ["another", "fedward-monitor"], "azp": "fedward-monitor"}, "coordinator"),
        ({"iss": ISSUER + "/"}, "coordinator"),
    ],
)
def test_what_is_missing_or_of_another_type_lets_nobody_in(changed: dict[str, Any], why: str) -> None:
    assert code(**changed) == why


def test_the_first_rule_that_fits_decides() -> None:
    both = CAROL | {"groups": ["cleveland-data"]}
    turned = Rules(ISSUER, "fedward-monitor", 60, "groups", tuple(reversed(RULES.allow)))
    assert decide(both, NOW, RULES) == Granted("coordinator", None, NOW + 300, "carol")
    assert decide(both, NOW, turned) == Granted("hospital", "cleveland", NOW + 300, "carol")


_ODD = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=True) | some.text(max_size=8)
    | some.sampled_from([ISSUER, "fedward-monitor", "carol", "cleveland-data", NOW]),
    lambda deeper: some.lists(deeper, max_size=3) | some.dictionaries(some.text(max_size=3), deeper, max_size=2),
    max_leaves=4,
)  # fmt: skip
_NAMES = some.sampled_from([*CAROL, "azp", "groups", "email", "email_verified"])


@given(some.dictionaries(_NAMES, _ODD), some.booleans())
def test_no_claims_raise_and_none_but_a_rule_s_own_let_anybody_in(odd: dict[str, Any], upon_good: bool) -> None:
    claims = (CAROL if upon_good else {}) | odd
    found = decide(claims, NOW, RULES)
    if isinstance(found, Granted):
        assert claims["is_logged_in"] is True
        assert claims["sub"]
        assert found.until is not None
        assert NOW < found.until <= NOW + SKEW_S + 3600
        named = claims["sub"] == "carol" or "cleveland-data" in (claims.get("groups") or [])
        assert named or claims.get("email") == "audit@example.org"


def test_pages_and_details_by_role() -> None:
    hospital, viewer = Granted("hospital", "cleveland", NOW), Granted("viewer", None, NOW)
    for all_seeing in (LOCAL, Granted("auditor", None, NOW)):
        assert visible(all_seeing, "audit")
        assert visible(all_seeing, "anything new")
        assert site_details(all_seeing, "va")
    assert visible(hospital, "audit")  # in part: see the attacks
    assert not visible(hospital, "run")
    assert not visible(hospital, "anything new")
    assert not visible(viewer, "audit")
    assert visible(hospital, "participation")
    assert not visible(viewer, "participation")
    assert visible(viewer, "fairness")
    assert sees_all(LOCAL)
    assert not sees_all(hospital)
    assert [sees_study(one, {"va"}) for one in (LOCAL, viewer, hospital)] == [True, True, False]
    assert sees_study(hospital, {"va", "cleveland"})
    assert not sees_study(Granted("hospital", None, NOW), set())
    assert site_details(hospital, "cleveland")
    assert not site_details(hospital, "cleveland-clinic")
    assert not site_details(viewer, "cleveland")
    assert not site_details(
        Granted("viewer", "cleveland", NOW), "cleveland"
    )  # a site beside another role is no hospital's


def file(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return said_of("http://localhost:9400", 8501, [{"subject": "carol", "role": "coordinator"}], **more)


OUTSIDE = {"address": "0.0.0.0", "port": 8501, "url": "https://monitor.example.org"}  # noqa: S104
PROVIDER = {
    "server_metadata_url": "https://id.example.org/.well-known/openid-configuration",
    "client_id": "m", "client_secret_env": "SECRET", "cookie_secret_file": "c",
}  # fmt: skip


def test_a_file_is_read_with_its_secrets(tmp_path: Path) -> None:
    found = load(written(tmp_path, file(tmp_path)))
    assert found.rules.issuer == "http://localhost:9400"
    assert len(cookie_secret(found, tmp_path)) == 64
    assert client_secret(found, tmp_path).startswith("what-only")
    assert tls_files(found, tmp_path) is None


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        (OUTSIDE, "needs tls_certificate and tls_key, or behind_proxy"),
        (OUTSIDE | {"tls_certificate": "a"}, "go together"),
        (OUTSIDE | {"tls_certificate": "a", "tls_key": "b", "behind_proxy": True}, "not both"),
        (OUTSIDE | {"url": "http://monitor.example.org"}, "must be https"),
        (OUTSIDE | {"url": "http://localhost:8501"}, "must be https"),
        (OUTSIDE | {"address": "127.0.0.1", "url": "http://monitor.example.org"}, "must be https"),
        (OUTSIDE | {"url": "https://monitor.example.org/monitor", "behind_proxy": True}, "no path"),
        (OUTSIDE | {"url": "https://user@monitor.example.org", "behind_proxy": True}, "without user"),
        (OUTSIDE | {"url": "https://*.example.org", "behind_proxy": True}, "web address"),
        (OUTSIDE | {"url": "monitor.example.org", "behind_proxy": True}, "web address"),
        (OUTSIDE | {"address": "monitor.example.org", "behind_proxy": True}, "IP address"),
        (OUTSIDE | {"behind_proxy": 1}, "valid boolean"),
        (OUTSIDE | {"port": 0, "behind_proxy": True}, "greater than or equal to 1"),
    ],
)
def test_what_others_reach_needs_encryption(tmp_path: Path, listen: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load(written(tmp_path, file(tmp_path, listen=listen)))
    assert load(written(tmp_path, file(tmp_path, listen=OUTSIDE | {"behind_proxy": True}))).listen.behind_proxy


def test_an_address_is_kept_as_browsers_write_it(tmp_path: Path) -> None:
    for typed in ("https://Monitor.Example.ORG", "https://monitor.example.org:443/"):
        listen = OUTSIDE | {"url": typed, "behind_proxy": True}
        assert load(written(tmp_path, file(tmp_path, listen=listen))).listen.url == "https://monitor.example.org"


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        (PROVIDER | {"server_metadata_url": "http://id.example.org/.well-known/openid-configuration"}, "must be https"),
        (PROVIDER | {"server_metadata_url": "https://id.example.org/discovery"}, "needs issuer"),
        (PROVIDER | {"client_secret_file": "s"}, "exactly one"),
        ({name: value for name, value in PROVIDER.items() if name != "client_secret_env"}, "exactly one"),
        (PROVIDER | {"scope": "profile"}, "scope"),
    ],
)
def test_a_provider_is_reached_safely_and_known_by_one_secret(
    tmp_path: Path, provider: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        load(written(tmp_path, file(tmp_path, provider=provider)))


@pytest.mark.parametrize("name", ["client_secret", "cookie_secret"])
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as raised:
        load(written(tmp_path, file(tmp_path, provider=PROVIDER | {name: "hush-hush"})))
    assert f"{name} must not stand in the file" in str(raised.value)
    assert "hush" not in str(raised.value.as_json())


@pytest.mark.parametrize(
    "rule",
    [
        {"role": "viewer"},
        {"subject": "a", "group": "b", "role": "viewer"},
        {"subject": "a", "role": "hospital"},
        {"subject": "a", "role": "viewer", "site": "va"},
        {"subject": "a", "role": "admin"},
        {"subject": "", "role": "viewer"},
        {"subject": "a", "role": "hospital", "site": "../va"},
        {"sub": "a", "role": "viewer"},
    ],
)
def test_a_rule_says_one_person_or_group_and_one_role(tmp_path: Path, rule: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"allow\.0"):
        load(written(tmp_path, file(tmp_path, allow=[rule])))


def test_a_list_of_nobody_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="allow"):
        load(written(tmp_path, file(tmp_path, allow=[])))


def test_files_that_others_may_change_or_read_are_refused(tmp_path: Path) -> None:
    found = written(tmp_path, file(tmp_path))
    access = load(found)
    found.chmod(0o666)
    with pytest.raises(IntegrityError, match="let themselves in"):
        load(found)
    (tmp_path / "cookie-secret").chmod(0o644)
    with pytest.raises(IntegrityError, match="read by others"):
        cookie_secret(access, tmp_path)
    (tmp_path / "client-secret").unlink()
    with pytest.raises(InputError, match="no client secret at"):
        client_secret(access, tmp_path)


def test_a_weak_or_absent_secret_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = load(written(tmp_path, file(tmp_path, provider=PROVIDER)))
    with pytest.raises(InputError, match="no cookie secret"):
        cookie_secret(access, tmp_path)
    (tmp_path / "c").write_text("short")
    (tmp_path / "c").chmod(0o600)
    with pytest.raises(InputError, match="too short"):
        cookie_secret(access, tmp_path)
    monkeypatch.delenv("SECRET", raising=False)
    with pytest.raises(InputError, match="environment's SECRET"):
        client_secret(access, tmp_path)
    monkeypatch.setenv("SECRET", "given")
    assert client_secret(access, tmp_path) == "given"


@given(some.binary(max_size=200))
def test_a_damaged_file_is_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, damage: bytes) -> None:
    found = tmp_path_factory.getbasetemp() / "damaged.toml"
    said = tomli_w.dumps(file(found)).encode()
    found.write_bytes(said[: len(damage) * 3] + damage)
    found.chmod(0o600)
    with contextlib.suppress(FedwardError):
        assert isinstance(load(found), Access)
