"""The systemd units, as systemd itself reads them: no complaint, and how far the service is shut in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command import fedward, good

from fedward.cli.service import COORDINATOR, SITE
from fedward.cli.units import fill
from fedward.privacy.errors import InputError

EXPOSURE = 1.5
"""1.2 where nothing that it reads lies below /home or /root, as this Python may."""
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="Debian's systemd is not installed (systemd-analyze)")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("service") / "site"
    good("site", "init", "va", "--home", path)
    return path


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ANALYZE), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning", "LC_ALL": "C"},
    )  # fmt: skip


def complaints(path: Path) -> str:
    """What `verify` says of a unit; it exits with 0 after a mere warning."""
    done = analyze("verify", path)
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def exposure(path: Path) -> float:
    done = analyze("security", "--offline=true", "--no-pager", path)
    return float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)[1])  # type: ignore[index]


@needs_systemd
def test_the_nodes_unit_is_sound_and_shut_in(home: Path, tmp_path: Path) -> None:
    made = good("site", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path, "--metrics", 9464,
                "--passphrase-file", tmp_path / "passphrase")  # fmt: skip
    unit = Path(made["unit"])
    assert unit == tmp_path / SITE
    assert complaints(unit) == ""
    assert exposure(unit) <= EXPOSURE
    text = unit.read_text()
    assert f"ReadWritePaths={home}\n" in text
    assert f"LoadCredential=fedward-passphrase:{tmp_path / 'passphrase'}\n" in text
    assert re.search(rf"^ExecStart=\S+/fedward site start --home {home} --metrics 9464$", text, re.M)
    assert made["next"] == ["systemctl daemon-reload", "systemctl enable --now fedward-site"]


@needs_systemd
def test_named_addresses_shut_it_in_further(home: Path, tmp_path: Path) -> None:
    good("site", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path)
    before = exposure(tmp_path / SITE)
    good("site", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path,
         "--only-to", "192.0.2.7", "--only-to", "2001:db8::/64")  # fmt: skip
    assert complaints(tmp_path / SITE) == ""
    assert "IPAddressDeny=any\nIPAddressAllow=localhost 192.0.2.7/32 2001:db8::/64\n" in (tmp_path / SITE).read_text()
    assert exposure(tmp_path / SITE) < before


@needs_systemd
def test_the_coordinators_unit_is_sound_and_shut_in(tmp_path: Path) -> None:
    home = tmp_path / "coordinator"
    good("coordinator", "init", "Test", "--home", home)
    good("coordinator", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path)
    assert complaints(tmp_path / COORDINATOR) == ""
    assert exposure(tmp_path / COORDINATOR) <= EXPOSURE


@needs_systemd
def test_a_flaw_would_be_seen(home: Path, tmp_path: Path) -> None:
    good("site", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path)
    unit = tmp_path / SITE
    sound = unit.read_text()
    unit.write_text(sound.replace("ProtectSystem=strict", "ProtectSystm=strict"))
    assert "ProtectSystm" in complaints(unit)
    unit.write_text(sound.replace("CapabilityBoundingSet=\n", "").replace("NoNewPrivileges=yes\n", ""))
    assert exposure(unit) > EXPOSURE


@needs_systemd
def test_a_path_of_any_letters_is_one_word(tmp_path: Path) -> None:
    home = tmp_path / 'a b%n$HOME"c'
    good("site", "init", "va", "--home", home)
    good("site", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path)
    assert complaints(tmp_path / SITE) == ""
    text = (tmp_path / SITE).read_text()
    escaped = str(home).replace("%", "%%").replace('"', '\\"')
    assert f'ReadWritePaths="{escaped}"\n' in text
    assert f'--home "{escaped.replace("$", "$$")}"\n' in text
    assert f"WorkingDirectory={str(home).replace('%', '%%')}\n" in text


def test_print_is_what_install_writes(home: Path, tmp_path: Path) -> None:
    good("site", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path)
    shown = fedward("site", "service", "--home", home, "--user", "fedward")
    assert shown.out == (tmp_path / SITE).read_text()
    assert "$" not in shown.out.replace("$$", "")


@pytest.mark.parametrize(
    "changed",
    [{"user": "a\nUser=root"}, {"user": "Root"}, {"memory": "all"}, {"memory": "4G\nUser=root"}, {"home": Path("/a\nb")},
     {"credential": Path("/a:b")}, {"only_to": ["example.org"]}, {"only_to": ["10.0.0.1\nUser=root"]},
     {"command": ["/bin/fedward", "--home", "a\nb"]}],
)  # fmt: skip
def test_nothing_smuggles_a_line_in(changed: dict[str, object]) -> None:
    sound: dict[str, object] = {
        "user": "fedward",
        "home": Path("/srv/site"),
        "command": ["/bin/fedward"],
        "memory": "4G",
    }
    fill(SITE, **sound)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        fill(SITE, **(sound | changed))  # type: ignore[arg-type]


def test_homes_below_home_stay_readable(tmp_path: Path) -> None:
    sound = {"user": "fedward", "memory": "4G", "command": ["/usr/bin/fedward"]}
    assert "ProtectHome=yes" in fill(SITE, home=Path("/var/lib/fedward"), **sound)  # type: ignore[arg-type]
    assert "ProtectHome=read-only" in fill(SITE, home=Path("/home/x"), **sound)  # type: ignore[arg-type]
    reads = [Path("/home/export/patients.csv")]
    assert "ProtectHome=read-only" in fill(SITE, home=Path("/srv/x"), reads=reads, **sound)  # type: ignore[arg-type]


def test_it_needs_a_place_that_it_may_write(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = fedward("site", "service", "--install", "--home", home, "--user", "fedward", "--units", tmp_path / "file")
    assert (ran.code, "cannot write" in ran.err) == (6, True)
