"""The hospital's log takes everything, whatever is wrong with it, and nothing of it is printed."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward.client.log import SiteLog
from fedward.privacy.errors import InputError

CANARY = "Zq7patient4711"


@pytest.fixture
def log(tmp_path: Path) -> SiteLog:
    return SiteLog(tmp_path / "log" / "site.log", None)


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


# --- how long it is kept --------------------------------------------------------------------------------------------

DAY = 86_400.0


def aged(path: Path, days: float) -> Path:
    """A file whose last line was written so many days ago."""
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def test_a_file_holds_one_week_and_nothing_is_kept_too_long(tmp_path: Path) -> None:
    path = tmp_path / "log" / "site.log"
    path.parent.mkdir()
    for days, name in ((181, "site.log.3"), (179, "site.log.2"), (8, "site.log.1")):
        (path.parent / name).write_text("old\n")
        aged(path.parent / name, days)
    log = SiteLog(path, None)
    assert {file.name for file in path.parent.iterdir()} == {"site.log", "site.log.1", "site.log.2"}
    log.write("worked")
    log.write("worked")
    assert len(lines(tmp_path)) == 2
    aged(path, 7)
    log.write("later")
    assert [line["event"] for line in lines(tmp_path)] == ["later"]
    assert (path.parent / "site.log.1").read_text().count("worked") == 2
    assert (path.parent / "site.log.3").read_text() == "old\n", "moved on by one, and not too old yet"
    log.close()


def test_a_full_file_is_followed_by_the_next_and_no_more_than_asked_are_kept(tmp_path: Path) -> None:
    log = SiteLog(tmp_path / "log" / "site.log", None, keep=2)
    for _ in range(4):
        for _ in range(6):
            log.write("worked", "x" * 1_000_000)
    assert {file.name for file in (tmp_path / "log").iterdir()} == {"site.log", "site.log.1", "site.log.2"}
    assert max(file.stat().st_size for file in (tmp_path / "log").iterdir()) < 5_000_001
    log.close()


def test_reopened_it_goes_on_in_a_new_file_where_the_old_one_was_moved_away(tmp_path: Path) -> None:
    log, path = SiteLog(tmp_path / "log" / "site.log", None), tmp_path / "log" / "site.log"
    log.write("before")
    path.rename(tmp_path / "moved.log")
    log.write("still there")
    log.reopen()
    log.write("after")
    assert [line["event"] for line in lines(tmp_path)] == ["after"]
    assert (tmp_path / "moved.log").read_text().count("\n") == 2
    log.close()
