"""A node behind a hospital's proxy: a real tinyproxy, CONNECT to one port, and every trouble of it by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority
from command import fedward, good
from joining import Running, Served, served
from proxies import Interceptor, Tinyproxy, needs_tinyproxy

from fedward.client.flower import (
    CONNECTED,
    PROXY_LOGIN,
    PROXY_REFUSED,
    PROXY_UNREACHABLE,
    TLS_INTERCEPTED,
)
from fedward.client.flower.proxy import parse_proxy, proxy_for
from fedward.client.network import FILE, keep_proxy, kept_proxy
from fedward.privacy.errors import InputError

PASSWORD = "hunter2-home"  # noqa: S105 - of a proxy that lives as long as a test


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "all_proxy", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("behind"), ("a", "b")) as made:
        yield made


@needs_tinyproxy
@pytest.mark.federation
def test_a_node_connects_by_https_proxy_and_survives_the_proxy(
    there: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Tinyproxy(tmp_path, there.port)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    node = Running(there.sites["a"])
    try:
        node.wait(CONNECTED)
        assert set(proxy.requests()) == {f"CONNECT localhost:{there.port} HTTP/1.1"}
        since = len(node.told)
        proxy.stop()
        assert str(proxy.port) in node.wait(PROXY_UNREACHABLE, since)
        since = len(node.told)
        proxy.start()
        node.wait(CONNECTED, since)
    finally:
        node.end()
        proxy.stop()
    assert set(proxy.requests()) == {f"CONNECT localhost:{there.port} HTTP/1.1"}


@needs_tinyproxy
@pytest.mark.federation
def test_a_proxy_s_login_is_kept_in_the_home_and_shown_nowhere(there: Served, tmp_path: Path) -> None:
    home = there.sites["b"]
    proxy = Tinyproxy(tmp_path, there.port, login=f"nurse {PASSWORD}")
    kit = tmp_path / "kit.json"
    kit.write_text(home.kit().model_dump_json())
    try:
        for url, code in (
            (f"http://127.0.0.1:{proxy.port}", PROXY_LOGIN),
            (f"http://nurse:wrong@127.0.0.1:{proxy.port}", PROXY_LOGIN),
            (f"http://nurse:{PASSWORD}@127.0.0.1:{proxy.port}", CONNECTED),
        ):
            good("site", "enroll", kit, "--proxy", url, "--home", home.path)
            node = Running(home)
            node.wait(code)
            node.end()
            assert "hunter2" not in repr(node.told)
    finally:
        proxy.stop()
    assert kept_proxy(home) == f"http://nurse:{PASSWORD}@127.0.0.1:{proxy.port}"
    for file in home.path.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes(), file
    good("site", "enroll", kit, "--proxy", "", "--home", home.path)
    assert not (home.path / FILE).exists()


@needs_tinyproxy
@pytest.mark.federation
def test_a_proxy_that_does_not_allow_the_port_is_named(there: Served, tmp_path: Path) -> None:
    home, proxy = there.sites["a"], Tinyproxy(tmp_path, 443)
    keep_proxy(home, f"127.0.0.1:{proxy.port}")
    node = Running(home)
    try:
        assert "CONNECT" in node.wait(PROXY_REFUSED)
    finally:
        node.end()
        proxy.stop()
        keep_proxy(home, "")


@pytest.mark.federation
def test_a_proxy_that_opens_tls_is_named_and_reads_nothing(there: Served, tmp_path: Path) -> None:
    home = there.sites["a"]
    proxy = Interceptor(*Authority(tmp_path, "inspection").issue("middle"))
    keep_proxy(home, f"http://127.0.0.1:{proxy.port}")
    node = Running(home)
    try:
        assert "inspection" in node.wait(TLS_INTERCEPTED)
    finally:
        node.end()
        proxy.close()
        keep_proxy(home, "")
    assert b"".join(proxy.read) == b""


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "p:3128"),
        ({"HTTPS_PROXY": "p:3128"}, "p:3128"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:2"}, "low:1"),
        ({"ALL_PROXY": "http://all"}, "all:80"),
        ({"HTTP_PROXY": "http://p:3128"}, None),
        ({"HTTPS_PROXY": "http://u:p@[::1]:8"}, "[::1]:8"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "fed.example.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.org, .EXAMPLE.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.org:9443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.org:443"}, "p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample.org"}, "p:1"),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "10.0.0.0/8"}, "p:1"),
    ],
)
def test_the_environment_decides_as_curl_has_it(environment: dict[str, str], shown: str | None) -> None:
    found = proxy_for("fed.example.org", 9443, None, environment)
    assert (found.shown if found else None) == shown
    assert proxy_for("fed.example.org", 9443, "direct", environment) is None
    set_here = proxy_for("fed.example.org", 9443, "http://own:5", environment)
    assert set_here is not None
    assert set_here.shown == "own:5"


def test_a_network_may_be_excepted() -> None:
    environment = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8,fd00::/8"}
    assert proxy_for("10.1.2.3", 9443, None, environment) is None
    assert proxy_for("fd00::1", 9443, None, environment) is None
    assert proxy_for("11.1.2.3", 9443, None, environment) is not None


@pytest.mark.parametrize(
    "url", ["ftp://p:1", "socks5://p:1", "http://", "http://p:port", "http://p/path", "http://p:99999"]
)
def test_what_is_no_proxy_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_proxy(url.replace("://p", f"://nurse:{PASSWORD}@p"))
    assert caught.value.code == "proxy-invalid"
    assert "hunter2" not in caught.value.text()


def test_a_wrong_proxy_is_refused_before_the_kit_is_taken(there: Served, tmp_path: Path) -> None:
    kit = tmp_path / "kit.json"
    kit.write_text(there.sites["a"].kit().model_dump_json())
    told = fedward("site", "enroll", kit, "--proxy", f"ftp://u:{PASSWORD}@p", "--home", there.sites["a"].path)
    assert told.code == 3
    assert "hunter2" not in told.err + told.out
