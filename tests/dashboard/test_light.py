"""The monitor opens in a second, since none of its pages imports what trains."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "opacus", "flwr", "captum")


def test_no_page_imports_what_trains() -> None:
    told = "import sys, fedward.dashboard.app, fedward.dashboard.federation.pages as _; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert {"streamlit", "pandas"} <= set(done.stdout.split())
    assert not set(HEAVY) & set(done.stdout.split())


def test_a_report_needs_no_streamlit() -> None:
    told = "import sys, fedward.dashboard.report.federation, fedward.dashboard.report.run, fedward.dashboard.report.pages as _; "
    done = subprocess.run(
        [sys.executable, "-c", f"{told}print(*sorted(sys.modules))"], capture_output=True, text=True, check=True
    )
    assert "altair" in done.stdout.split()
    assert not {"streamlit", *HEAVY} & set(done.stdout.split())
