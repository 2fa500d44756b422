"""What of the Dockerfile can be tested without a container engine: its health check against a real node's server, its commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import fedward

from fedward.client.exposition import Stock
from fedward.client.health import HealthServer
from fedward.client.vitals import Signs

TEXT = (Path(__file__).parents[2] / "deploy" / "Dockerfile").read_text(encoding="utf-8")
WHOLE = re.sub(r"\\\n\s*", "", TEXT)


def instruction(name: str) -> list[str]:
    return re.findall(rf"(?m)^{name} (.+)$", WHOLE)


@pytest.mark.parametrize(("told_s_ago", "code"), [(0.0, 0), (400.0, 1)])
def test_its_health_check_tells_a_node_that_goes_on_from_one_that_hangs(told_s_ago: float, code: int) -> None:
    signs = Signs(told_at=time.time() - told_s_ago)
    server = HealthServer(0, lambda: signs, Stock)
    server.start()
    try:
        [check] = re.findall(r"CMD (\[.+\])", instruction("HEALTHCHECK")[0])
        program, *arguments = json.loads(check)
        assert program.endswith("/bin/python")
        asked = [part.replace(":9464", f":{server.port}") for part in arguments]
        assert asked != arguments
        done = subprocess.run([sys.executable, *asked], capture_output=True, timeout=30, check=False)
        assert done.returncode == code
    finally:
        server.close()


def test_it_says_that_it_is_untested_runs_as_nobody_special_and_its_command_exists() -> None:
    assert TEXT.startswith("# UNTESTED")
    assert instruction("USER") == ["10001"]
    assert instruction("STOPSIGNAL") == ["SIGTERM"]
    [command] = map(json.loads, instruction("CMD"))
    usage = fedward(*command[:2], "--help").out
    assert all(option in usage for option in command if option.startswith("--"))
    assert command[-1] == "9464"
