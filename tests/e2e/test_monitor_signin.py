"""The monitor behind sign-in as people meet it: a real provider on loopback, the real server, a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import chromium
import monitored
import pytest
from federation import Federation
from looking import open_tables
from oidc_provider_mock import User
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from visitors import Watched, run_of_three, watched
from watching import JOINER, texts

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Debian's chromium"),
]

ADA = User(
    sub="ada", claims={"email": "ada@example.org", "email_verified": True, "groups": ["staff", "cleveland-data"]}
)
BOB = User(sub="bob", claims={"groups": ["staff"]})
HOSPITAL = {"group": "cleveland-data", "role": "hospital", "site": "cleveland"}
CHARTS = "document.querySelectorAll('[data-testid=stVegaLiteChart] svg').length >= 3"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of_three(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def site(run: Path, tmp_path: Path) -> Iterator[Watched]:
    with watched(run, tmp_path / "access", [ADA, BOB], [HOSPITAL, {"subject": "eve", "role": "coordinator"}]) as found:
        yield found


def press(page: chromium.Page, label: str) -> None:
    said = "one.innerText.replaceAll('\\u2060', '').split('\\n')"
    found = f"[...document.querySelectorAll('button')].find(one => {said}.some(part => part.trim() == {label!r}))"
    page.wait(found)
    page.value(f"{found}.click()")


def sign_in(page: chromium.Page, address: str, subject: str) -> None:
    page.open(address)
    press(page, "Sign in")
    page.wait("location.pathname == '/oauth2/authorize' && document.querySelector('form')")
    press(page, subject)
    page.wait(f"location.origin == {address!r} && document.body.innerText.length > 50")


def says(page: chromium.Page, text: str, seconds: float = 40.0) -> None:
    page.wait(f"document.body.innerText.replaceAll('\\u2060', '').includes({text!r})", seconds)


def test_a_hospital_signs_in_sees_its_own_is_taken_off_the_list_and_sees_nothing(site: Watched, tmp_path: Path) -> None:
    with chromium.page(tmp_path) as page:
        page.open(site.address)
        says(page, "Sign in to the monitor")
        assert "AUROC" not in page.text()
        page.picture(tmp_path / "sign-in.png")

        sign_in(page, site.address, "ada")
        page.wait(CHARTS)
        says(page, "ada@example.org")
        open_tables(page)
        whole = page.value("document.documentElement.outerHTML")
        assert "cleveland" in whole
        assert "hungarian" not in whole
        assert "switzerland" not in whole
        says(page, ".810")  # the federated model, on everybody
        page.picture(tmp_path / "signed-in.png")
        page.open(f"{site.address}/run")
        page.wait("document.body.innerText.includes('Page not found') || document.body.innerText.includes('AUROC')")
        assert "machine fix every number" not in page.text()

        page.open(f"{site.address}/fairness")
        says(page, "ada@example.org")
        site.allow({"subject": "eve", "role": "coordinator"}, contact="the data office, 555 0100")
        says(page, "You cannot look at this monitor", 20)  # by itself
        says(page, "the data office, 555 0100")
        page.wait("!document.body.innerText.includes('AUROC')", 5)
        page.wait("document.querySelector('[data-testid=stCode]')?.innerText.trim() == 'ada'")
        page.picture(tmp_path / "denied.png")

        site.allow(HOSPITAL)
        page.open(site.address)
        page.wait(CHARTS)
        press(page, "ada@example.org")
        says(page, "Role: hospital cleveland. The session ends at")
        page.picture(tmp_path / "account.png")
        press(page, "Sign out")
        page.wait("location.pathname.includes('end_session')")
        page.open(site.address)
        says(page, "Sign in to the monitor")


def test_whoever_is_not_on_the_list_is_told_what_to_ask_for(site: Watched, tmp_path: Path) -> None:
    with chromium.page(tmp_path) as page:
        sign_in(page, site.address, "bob")
        says(page, "You cannot look at this monitor")
        says(page, "not on the monitor's list")
        page.wait("document.querySelector('[data-testid=stCode]')?.innerText.trim() == 'bob'")
        assert "Traceback" not in page.text()
        page.picture(tmp_path / "unknown.png")


def test_a_session_ends_by_itself_while_its_page_is_open(run: Path, tmp_path: Path) -> None:
    with (
        watched(run, tmp_path / "access", [ADA], [HOSPITAL], lasting=timedelta(seconds=25)) as site,
        chromium.page(tmp_path) as page,
    ):
        sign_in(page, site.address, "ada")
        page.wait(CHARTS)
        says(page, "Your session has ended", 60)
        page.wait("!document.body.innerText.includes('AUROC')", 5)
        page.picture(tmp_path / "ended.png")


def test_sign_in_pages_fit_both_widths_in_light_and_dark(site: Watched, tmp_path: Path) -> None:
    with chromium.page(tmp_path) as page:
        for width in (1440, 1024):
            for dark in (False, True):
                page.open(site.address, width, 900, dark)
                says(page, "Sign in to the monitor")
                assert page.value("document.querySelector('[data-testid=stMain]').scrollWidth") <= width
                page.picture(tmp_path / f"{width}-{dark}.png")


PAGES = {"": 2, "accuracy": 4, "fairness": 1, "privacy": 1, "participation": 2, "models": 0, "audit": 0}
"""Every page of a record, and how many charts it has at least."""
IDLE = "document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return monitored.monitored(tmp_path_factory.mktemp("monitored"))


def whole(page: chromium.Page, address: str, charts: int) -> None:
    page.open(address)
    ready = f"document.querySelectorAll('[data-testid=stVegaLiteChart] svg').length >= {charts}"
    page.wait(f"{ready} && document.body.innerText.includes('This study costs a patient') && {IDLE}", 60)


def came(page: chromium.Page) -> str:
    """All that the server sent the page, whether the browser shows it or not."""
    said = []
    for data in page.received:
        message = ForwardMsg()
        message.ParseFromString(data)
        said.extend(texts(message))
    page.received.clear()
    return "\n".join(said).replace("\\", "").replace(JOINER, "")


def others(said: str) -> set[str]:
    return {site for site in monitored.SECONDS if site != "va" and re.search(rf"(?i)(?<![a-z]){site}(?![a-z])", said)}


def test_a_hospital_looks_at_a_coordinator_s_record_and_gets_its_own_part_alone(
    federation: Federation, tmp_path: Path
) -> None:
    """Neither on the page nor over its websocket: a table's rows that are scrolled away, a chart's numbers, what is drawn anew."""
    pictures = os.environ.get("FEDWARD_PICTURES")
    ours = {"group": "cleveland-data", "role": "hospital", "site": "va"}
    with (
        watched(federation.home.path, tmp_path / "access", [ADA, BOB], [ours], store=True) as site,
        chromium.page(tmp_path) as page,
    ):
        page.listen()
        sign_in(page, site.address, "ada")
        says(page, "ada@example.org")
        for name, charts in PAGES.items():
            came(page)
            whole(page, f"{site.address}/{name}", charts)
            open_tables(page)
            said, shown = came(page), page.value("document.documentElement.outerHTML")
            assert others(said) == set(), name
            assert others(str(shown)) == set(), name
            if name in ("privacy", "participation"):
                assert re.search(r"\bva: \d", said), name  # its own, in the words beside the chart
            assert page.value("document.querySelectorAll('[data-testid=stException]').length") == 0
            assert page.value("document.querySelector('[data-testid=stMain]').scrollWidth") <= 1440, name
            if pictures:
                page.picture(Path(pictures) / f"hospital-{name or 'study'}.png")
        press(page, "Verify the audit log")
        says(page, "Verified:")
        assert others(came(page) + page.text()) == set()

        site.allow({"group": "cleveland-data", "role": "viewer"})
        page.open(f"{site.address}/participation")
        page.wait(
            f"document.body.innerText.includes('This study costs a patient') && {IDLE}", 60
        )  # the first of its own
        assert "Participation" not in page.text()
        page.received.clear()
        whole(page, f"{site.address}/", 2)
        said = came(page)
        assert re.search(r"(?i)(?<![a-z0-9])va(?![a-z0-9])", said) is None
        assert others(said) == set()
        assert "AUROC so far" in said
        site.allow({"group": "cleveland-data", "role": "coordinator"})  # the same search over what is not cut
        page.received.clear()
        whole(page, f"{site.address}/participation", 2)
        assert others(came(page)) == {"cleveland", "hungarian", "switzerland"}
