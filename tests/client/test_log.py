"""The hospital's log takes everything, whatever is wrong with it, and nothing of it is printed."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward.client.log import SiteLog
from fedward.privacy.errors import InputError

CANARY = "Zq7patient4711"


@pytest.fixture
def log(tmp_path: Path) -> SiteLog:
    return SiteLog(tmp_path / "log" / "site.log")


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    """The process's own ways to print come back after a test."""
    loggers = {name: logging.getLogger(name) for name in (None, "flwr", "py.warnings")}
    kept = {name: (list(one.handlers), one.propagate) for name, one in loggers.items()}
    hook = threading.excepthook
    yield
    logging.captureWarnings(False)
    threading.excepthook = hook
    for name, (handlers, propagate) in kept.items():
        loggers[name].handlers[:], loggers[name].propagate = handlers, propagate


def lines(tmp_path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (tmp_path / "log" / "site.log").read_text().splitlines()]


def test_a_line_that_cannot_be_written_is_not_printed_instead(
    log: SiteLog, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Full:
        def write(self, _: str) -> None:
            raise OSError(28, CANARY)

        def flush(self) -> None:
            raise OSError(28, CANARY)

        def tell(self) -> int:
            return 0

        def seek(self, *_: int) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(log._handler, "stream", Full())
    log.write("worked", CANARY)
    reference = log.error(ValueError(CANARY))
    assert len(reference) == 12
    out, err = capfd.readouterr()
    assert CANARY not in out + err
    assert "cannot be written" in err


def test_an_error_that_cannot_be_shown_is_recorded(log: SiteLog, tmp_path: Path) -> None:
    class Unshowable(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise ValueError(CANARY)

    reference = log.error(Unshowable())
    assert lines(tmp_path)[0]["reference"] == reference
    assert lines(tmp_path)[0]["kind"] == "Unshowable"


def test_a_text_that_utf_8_cannot_hold_is_recorded(log: SiteLog, tmp_path: Path) -> None:
    log.error(InputError("lone \ud800 surrogate"))
    assert "surrogate" in lines(tmp_path)[0]["text"]


@pytest.mark.usefixtures("_as_it_was")
def test_what_python_and_libraries_print_goes_to_the_log(
    log: SiteLog, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import flwr.common.logger  # noqa: F401 - it prints to standard error by itself

    log.take_over()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what other tests left to the garbage collector
        warnings.filterwarnings("always", message="column")
        logging.captureWarnings(False)  # what an earlier test left
        logging.captureWarnings(True)  # within the filter's context, which pytest takes back at its end
        warnings.warn(f"column {CANARY} has mixed types", stacklevel=1)
    logging.getLogger("flwr").error("reply %s", CANARY)
    logging.getLogger("some.library").warning("row %s", CANARY)
    logging.getLogger("some.library").warning("row %d", CANARY)

    def fail() -> None:
        raise ValueError(CANARY)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    out, err = capfd.readouterr()
    assert out + err == ""
    told = lines(tmp_path)
    assert [line["event"] for line in told] == ["library"] * 4 + ["error"]
    assert sum(CANARY in json.dumps(line) for line in told) == 4
