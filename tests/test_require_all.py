"""The rule of conftest.py that FEDWARD_REQUIRE_ALL=1 turns every skip into a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "a mark": "import pytest\n@pytest.mark.skip(reason='too old')\ndef test_a(): pass\n",
    "a call": "import pytest\ndef test_a(): pytest.skip('too old')\n",
    "a fixture": "import pytest\n@pytest.fixture\ndef f(): pytest.skip('too old')\ndef test_a(f): pass\n",
    "a module": "import pytest\npytest.skip('too old', allow_module_level=True)\ndef test_a(): pass\n",
}


def outcome(folder: Path, source: str, **environment: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-c", os.devnull, "test_it.py"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)} | environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("source", CASES.values(), ids=CASES)
def test_a_skip_fails_with_its_reason(tmp_path: Path, source: str) -> None:
    code, text = outcome(tmp_path, source, FEDWARD_REQUIRE_ALL="1")
    assert code != 0
    assert "too old" in text
    assert "FEDWARD_REQUIRE_ALL" in text


def test_without_it_a_skip_is_a_skip_and_an_expected_failure_stays_one(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, CASES["a call"], FEDWARD_REQUIRE_ALL="0")
    assert (code, "1 skipped" in text) == (0, True)
    expected = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_a(): assert False\n"
    code, text = outcome(tmp_path, expected, FEDWARD_REQUIRE_ALL="1")
    assert (code, "1 xfailed" in text) == (0, True)
