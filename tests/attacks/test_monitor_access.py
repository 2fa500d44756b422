"""Ways into the monitor that are none: against the real server and a real provider on loopback."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import certificates
import httpx
import pytest
import visitors
from command import fedward
from loopback import free_ports
from oidc_provider_mock import User
from streamlit import config, net_util
from streamlit.testing.v1 import AppTest
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from visitors import Visitor, Watched
from websockets.exceptions import InvalidStatus

from fedward.dashboard import app, gatekeeper, serve
from fedward.privacy.errors import RefusalError

pytestmark = pytest.mark.timeout(300)

ADA = User(sub="ada", claims={"groups": ["cleveland-data"]})
CARL = User(sub="carl", claims={})
MALLORY = User(sub="mallory", claims={"groups": ["va-data"], "email": "carl@example.org"})
HOSPITAL = {"group": "cleveland-data", "role": "hospital", "site": "cleveland"}
COORDINATOR = {"subject": "carl", "role": "coordinator"}
BY_EMAIL = {"email": "carl@example.org", "role": "coordinator"}
RULES = (HOSPITAL, COORDINATOR, BY_EMAIL)
CLOSED = ("Sign in to the monitor", "You cannot look at this monitor", "Your session has ended")
USER = "_streamlit_user"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return visitors.run_of_three(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """With an environment that would open other doors: each of these is a setting of Streamlit's."""
    folder = tmp_path_factory.mktemp("access") / "access"
    with visitors.watched(
        run, folder, [ADA, CARL, MALLORY], RULES,
        STREAMLIT_SERVER_TRUSTED_USER_HEADERS=json.dumps({"X-User": "sub"}),
        STREAMLIT_SERVER_ENABLE_AGENT_API="true",
        STREAMLIT_SERVER_ENABLE_CORS="false",
        STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION="false",
        STREAMLIT_SERVER_ADDRESS="0.0.0.0",  # noqa: S104
        STREAMLIT_CLIENT_SHOW_ERROR_DETAILS="full",
        TMPDIR=str(folder.parent), XDG_RUNTIME_DIR="",
    ) as found:  # fmt: skip
        yield found


@pytest.fixture
def site(served: Watched) -> Watched:
    served.allow(*RULES)
    return served


@pytest.fixture
def visitor(site: Watched) -> Iterator[Visitor]:
    with Visitor(site.address) as found:
        yield found


def shut(text: str) -> bool:
    """Whether a page shows that it is closed, and nothing of a study."""
    return any(said in text for said in CLOSED) and "AUROC" not in text and "arrow" not in text


def claims(site: Watched, **changed: Any) -> dict[str, Any]:
    """What Streamlit's own cookie would say of Carl."""
    issuer = site.said["provider"]["server_metadata_url"].removesuffix("/.well-known/openid-configuration")
    now = time.time()
    return {
        "iss": issuer, "aud": visitors.CLIENT, "sub": "carl", "iat": int(now) - 5, "exp": int(now) + 600,
        "origin": site.address, "is_logged_in": True, "provider": "default",
    } | changed  # fmt: skip


def cookie(said: dict[str, Any], secret: str = visitors.COOKIE_SECRET) -> str:
    return create_signed_value(secret, USER, json.dumps(said)).decode()


def test_a_cookie_of_our_own_making_shows_that_the_forgeries_below_are_well_made(
    site: Watched, visitor: Visitor
) -> None:
    visitor.web.cookies.set(USER, cookie(claims(site)))
    assert "Federated AUROC" in visitor.look()


def test_forged_cookie(site: Watched, visitor: Visitor) -> None:
    real = cookie(claims(site))
    for forged in (
        cookie(claims(site), secret="0123456789abcdef" * 3),
        json.dumps(claims(site)),
        real[:-1] + ("A" if real[-1] != "A" else "B"),
        create_signed_value(visitors.COOKIE_SECRET, "_streamlit_user_tokens", json.dumps(claims(site))).decode(),
    ):
        visitor.web.cookies.set(USER, forged)
        assert shut(visitor.look()), forged


def test_cookie_of_another_application_or_provider(site: Watched, visitor: Visitor) -> None:
    for changed in ({"aud": "payroll"}, {"iss": "http://evil.example"}, {"origin": "https://evil.example"}):
        visitor.web.cookies.set(USER, cookie(claims(site, **changed)))
        assert shut(visitor.look()), changed


def test_subject_not_on_the_list(visitor: Visitor) -> None:
    shown = visitor.sign_in("mallory")
    assert shut(shown)
    assert "not on the monitor's list" in shown


def test_somebody_else_s_address_unverified(site: Watched, visitor: Visitor) -> None:
    assert shut(visitor.sign_in("mallory"))
    visitor.web.cookies.set(USER, cookie(claims(site, sub="x", email="carl@example.org", email_verified="true")))
    assert shut(visitor.look())
    visitor.web.cookies.set(USER, cookie(claims(site, sub="x", email="carl@example.org", email_verified=True)))
    assert "Federated AUROC" in visitor.look()


def test_group_removed_while_signed_in(site: Watched, visitor: Visitor) -> None:
    assert "Federated AUROC" in visitor.sign_in("ada")
    site.allow(COORDINATOR)
    assert shut(visitor.again())
    assert shut(visitor.look())
    site.allow(*RULES)
    assert "Federated AUROC" in visitor.look()


def test_fragment_rerun_after_removal(site: Watched, visitor: Visitor) -> None:
    visitor.sign_in("ada")
    fragments = visitor.fragments()
    assert len(fragments) == 2
    for name in fragments:
        assert not shut(visitor.fragment(name))
    site.allow(COORDINATOR)
    for name in fragments:
        site.allow(*RULES)
        visitor.look()
        site.allow(COORDINATOR)
        assert shut(visitor.fragment(name)), name


def test_fragment_rerun_after_a_lesser_role(site: Watched, visitor: Visitor) -> None:
    assert "hungarian" in visitor.sign_in("carl")
    site.allow({"subject": "carl", "role": "hospital", "site": "cleveland"})
    for name in visitor.fragments()[:1]:
        shown = visitor.fragment(name)
        assert "Federated AUROC" in shown  # the whole page, drawn anew
        assert "hungarian" not in shown


def test_damaged_list(site: Watched, visitor: Visitor) -> None:
    assert "Federated AUROC" in visitor.sign_in("carl")
    file = site.folder / "access.toml"
    for damage in (b"", b"allow = [", b"\xff\xfe"):
        file.write_bytes(damage)
        assert shut(visitor.again()), damage
    file.unlink()
    assert shut(visitor.again())
    site.allow(*RULES)
    file.chmod(0o666)
    assert shut(visitor.again())
    file.chmod(0o600)
    assert "Federated AUROC" in visitor.again()


def test_expired_session(site: Watched, visitor: Visitor) -> None:
    now = int(time.time())
    for changed in (
        {"iat": now - 700, "exp": now - 1},
        {"iat": now - 3601, "exp": now + 10**6},  # the session's own minutes
        {"iat": now + 300, "exp": now + 900},
        {"exp": None},
        {"exp": "never"},
    ):
        visitor.web.cookies.set(USER, cookie(claims(site, **changed)))
        assert shut(visitor.look()), changed
    visitor.web.cookies.set(USER, cookie(claims(site, exp=int(time.time()) + 4)))
    assert "Federated AUROC" in visitor.look()
    time.sleep(4.5)
    assert "Your session has ended" in visitor.again()


def test_another_hospital_s_page_by_url(site: Watched, visitor: Visitor) -> None:
    with Visitor(site.address) as carl:
        whole = carl.sign_in("carl")
        pages = {page.page_name: page.page_script_hash for one in carl.shown for page in one.navigation.app_pages}
    assert "hungarian" in whole
    assert set(pages) == {"Accuracy", "Fairness", "Run"}
    visitor.sign_in("ada")
    shown = [visitor.look(page) for page in ("", "run", "hungarian", "accuracy?site=hungarian", "../run")]
    for name in pages.values():
        message = visitors.BackMsg()
        message.rerun_script.page_script_hash = name
        message.rerun_script.query_string = "site=hungarian&role=coordinator"
        shown.append(visitor.send(message))
    for text in shown:
        assert "hungarian" not in text
        assert "switzerland" not in text
        assert "machine fix every number" not in text
    assert "Federated AUROC" in shown[0]


def test_header_smuggling_of_a_user(site: Watched, visitor: Visitor) -> None:
    smuggled = {
        "X-User": "carl", "X-Forwarded-User": "carl", "X-Forwarded-Email": "carl@example.org",
        "X-Auth-Request-User": "carl", "X-Streamlit-User": "eyJlbWFpbCI6ICJjYXJsQGV4YW1wbGUub3JnIn0=", "Remote-User": "carl",
    }  # fmt: skip
    assert shut(visitor.look(headers=smuggled))
    assert shut(visitor.sign_in("mallory"))
    assert shut(visitor.look(headers=smuggled))


def test_websocket_of_another_site(site: Watched, visitor: Visitor) -> None:
    visitor.sign_in("carl")
    with pytest.raises(InvalidStatus):
        visitor.look(origin="https://evil.example")
    foreign = {
        "Host": "evil.example", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "A" * 22 + "==",
        "Sec-WebSocket-Version": "13",
    }  # fmt: skip
    assert visitor.web.get(f"{site.address}/_stcore/stream", headers=foreign).status_code == 403
    kept = dict(visitor.web.cookies)
    visitor.web.cookies.delete("_streamlit_xsrf")
    assert kept
    assert shut(visitor.look(headers={"Cookie": f"{USER}={kept[USER]}"}))  # the cookie alone, without the page's token


def test_agent_api(site: Watched, visitor: Visitor) -> None:
    answer = visitor.web.post(f"{site.address}/_stcore/agent/interact", json={})
    assert answer.status_code in {403, 404}
    assert "AUROC" not in answer.text


def test_open_redirect_of_the_login(site: Watched, visitor: Visitor) -> None:
    visitor.look()
    visitor.press("Sign in")
    asked = visitor.redirect()
    evil = "https://evil.example"
    extra = f"&redirect_uri={evil}&next={evil}&post_logout_redirect_uri={evil}"
    issuer = urlsplit(site.said["provider"]["server_metadata_url"]).netloc
    for address in (asked, asked + extra):
        for headers in ({}, {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}):
            to = urlsplit(visitor.web.get(address, headers=headers).headers["location"])
            assert to.netloc == issuer
            assert parse_qs(to.query)["redirect_uri"] == [f"{site.address}/oauth2callback"]
    for path in (
        f"/auth/login?provider=forged{extra}", f"/oauth2callback?code=x&state=forged{extra}",
        f"/oauth2callback?error=x&error_description={evil}{extra}", f"/auth/logout?x=1{extra}",
    ):  # fmt: skip
        assert visitor.web.get(site.address + path).headers["location"] == "/", path
    visitor.sign_in("carl")
    out = urlsplit(visitor.web.get(f"{site.address}/auth/logout?x=1{extra}").headers["location"])
    assert out.netloc == issuer
    assert parse_qs(out.query)["post_logout_redirect_uri"] == [f"{site.address}/oauth2callback"]


def test_replayed_callback(site: Watched, visitor: Visitor) -> None:
    visitor.look()
    visitor.press("Sign in")
    asked = visitor.web.get(visitor.redirect())
    back = visitor.web.post(asked.headers["location"], data={"sub": "carl"}).headers["location"]
    with Visitor(site.address) as mallory:  # who has seen the address in a log
        mallory.web.get(back)
        assert shut(mallory.look())
    visitor.web.get(back)
    assert "Federated AUROC" in visitor.look()


def test_secrets_where_others_look(site: Watched, visitor: Visitor) -> None:
    pid = site.process.pid
    said = Path(f"/proc/{pid}/cmdline").read_bytes()
    for secret in (visitors.CLIENT_SECRET, visitors.COOKIE_SECRET):
        assert secret.encode() not in said
    folders = [one for one in site.folder.parent.iterdir() if one.name.startswith("fedward-monitor-")]
    assert len(folders) == 1
    assert stat.S_IMODE(folders[0].stat().st_mode) == 0o700
    assert stat.S_IMODE((folders[0] / "secrets.toml").stat().st_mode) == 0o600
    for path in (
        "/.streamlit/secrets.toml",
        "/app/static/secrets.toml",
        "/media/secrets.toml",
        "/static/../secrets.toml",
    ):
        assert visitors.COOKIE_SECRET not in visitor.web.get(site.address + path).text


def test_secrets_left_behind(run: Path, tmp_path: Path) -> None:
    with visitors.watched(run, tmp_path / "access", [], RULES, TMPDIR=str(tmp_path), XDG_RUNTIME_DIR="") as found:
        assert [one for one in tmp_path.iterdir() if one.name.startswith("fedward-monitor-")]
        found.process.terminate()
        assert found.process.wait(30) == 0
        assert not [one for one in tmp_path.iterdir() if one.name.startswith("fedward-monitor-")]


def test_plain_http_where_tls_was_asked_for(run: Path, tmp_path: Path) -> None:
    authority = certificates.Authority(tmp_path, "ours")
    certificate, key = authority.issue("monitor")
    key.chmod(0o600)
    port = free_ports(1)[0]
    listen = {
        "address": "127.0.0.1", "port": port, "url": f"https://127.0.0.1:{port}",
        "tls_certificate": str(certificate), "tls_key": str(key),
    }  # fmt: skip
    file = visitors.written(tmp_path / "access", visitors.access("http://localhost:9", port, RULES, listen=listen))
    with visitors.monitor(run, file, port, certificate=authority.file):
        address = f"https://127.0.0.1:{port}/_stcore/health"
        assert httpx.get(address, verify=visitors.trusting(authority.file), timeout=10).text == "ok"
        with pytest.raises(httpx.HTTPError):
            httpx.get(address.replace("https", "http"), timeout=10)


def test_a_door_opened_to_everybody(run: Path) -> None:
    for address in ("0.0.0.0", "::", "192.0.2.7", "monitor.example.org"):  # noqa: S104
        ran = fedward("monitor", run, "--no-browser", "--address", address, "--json")
        assert (ran.code, ran.json["error"]) == (4, "monitor-open")
        assert "--access" in ran.json["remedy"]
        with pytest.raises(RefusalError):
            serve.serve("run", str(run), serve.here(8501, address), False)


def test_the_script_run_by_hand_on_every_address(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gatekeeper.guard(None)
    before = config.get_option("server.address")
    monkeypatch.setattr("sys.argv", ["app.py", "run", str(run)])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # Streamlit puts the script in its place
    try:
        for address, is_open in ((None, False), ("0.0.0.0", False), ("10.0.0.1", False), ("127.0.0.1", True)):  # noqa: S104
            config.set_option("server.address", address)
            shown = AppTest.from_file(str(Path(app.__file__)), default_timeout=60).run()
            assert not shown.exception
            assert bool(shown.metric) is is_open, address
            assert any("has no list of who may look" in one.value for one in shown.error) is not is_open
    finally:
        config.set_option("server.address", before)


def test_a_page_of_any_origin_makes_the_monitor_call_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit asks a host on the internet for its own address, to compare an unknown origin with it."""
    calls: list[object] = []
    monkeypatch.setattr(net_util, "_make_blocking_http_get", lambda *given, **_: calls.append(given))
    monkeypatch.setattr(net_util, "_external_ip", None)
    monkeypatch.setattr("streamlit.web.cli.main.main", lambda *_, **__: None)
    net_util.get_external_ip()
    assert calls  # without us
    calls.clear()
    serve.serve("run", str(run), serve.here(free_ports(1)[0]), False)
    net_util.get_external_ip()
    assert calls == []


def test_callbacks_run_before_the_gate() -> None:
    """Streamlit runs `on_click` and `on_change` before the script: pages have none that do anything."""
    folder = Path(app.__file__).parent
    for file in folder.glob("**/*.py"):
        text = (
            file.read_text()
            .replace('on_click="ignore"', "")
            .replace('on_change="rerun"', "")
            .replace("`on_click`", "")
            .replace("(`on_click`)", "")
        )
        assert "on_click" not in text, file
        assert "on_change" not in text, file
        if file.name != "gatekeeper.py":
            assert "st.fragment" not in text, file
    assert os.sep in str(folder)
