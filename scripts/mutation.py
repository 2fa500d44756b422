"""Mutation testing of secure aggregation: mutmut makes the mutants, this tries them. docs/mutation-testing.md says how.

make    mutmut's mutants, into mutants/
reach   which lines each test executes and how long it takes, into reach.json
first   each mutant of code without a result, in a fork of a process that has collected the tests and run none
fresh   each survivor, or those that are named, in a process of its own, against every test that reaches it
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE, TESTS, TOP = "fedward.privacy.secagg", "tests/privacy/secagg", Path.cwd()
SOURCE, REACH, RESULTS = TOP / "mutants/src" / PACKAGE.replace(".", "/"), TOP / "reach.json", TOP / "results.jsonl"
LEFT_OUT = (
    f"--deselect={TESTS}/test_fuzz.py::test_every_parser_and_every_method_that_takes_a_message_is_tried",
    "-k",
    "not hundred_megabytes and not (test_every_changed_byte and SiteParty)",
)
BUDGET = 8.0  # seconds of tests for a mutant in the first pass
ERRORS = {"ProtocolError", "InputError", "IntegrityError", "_refused", "malformed"}
WORDS = {"_need": 2, "_all": 1, "_split": 3, "verify": 4}  # the argument that is only said in an error


class Silent(ast.NodeTransformer):
    """Makes the words of errors equal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in ERRORS:
            node.keywords = [word for word in node.keywords if word.arg not in ("expected", "got", "remedy")]
        said = 0 if name in ERRORS else WORDS.get(name)
        node.args = [ast.Constant("") if place == said else value for place, value in enumerate(node.args)]
        return node


def statements(function: ast.AST, changed: set[int]) -> set[int]:
    """The lines of the statements that the changed lines are part of, without the bodies of compound ones."""
    found: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.stmt) and node is not function:
            inner = [n.lineno for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.excepthandler)]
            last = max(min(inner) - 1, node.lineno) if inner else node.end_lineno or node.lineno
            lines = set(range(node.lineno, last + 1))
            found |= lines if lines & changed else set()
    return found


def mutants() -> dict[str, dict[str, Any]]:
    """By name: whether it changes code, and the lines of the original of which a test must execute one."""
    found = {}
    for index in sorted(SOURCE.glob("*.spans")):
        lines, spans = index.with_suffix("").read_text().splitlines(), json.loads(index.read_text())["spans"]

        def read(name: str, lines: list[str] = lines, spans: dict[str, Any] = spans) -> tuple[list[str], Any]:
            text = [" " + line for line in lines[spans[name][0] - 1 : spans[name][1]]]
            function: Any = next(
                n for n in ast.walk(ast.parse("\n".join(["if 1:", *text]))) if hasattr(n, "decorator_list")
            )
            function.name = ""
            return text, function

        for name in spans:
            original = name.partition("__mutmut_")[0] + "__mutmut_orig"
            if name == original:
                continue
            (old, old_tree), (new, new_tree) = read(original), read(name)
            edits = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
            changed = {at + 2 for tag, a, b, _, _ in edits if tag != "equal" for at in range(a, max(b, a + 1))}
            changed.discard(old_tree.lineno)  # its name
            hit = statements(old_tree, changed) or range(old_tree.body[0].lineno, old_tree.end_lineno + 1)
            module = index.name.partition(".")[0]
            found[f"{PACKAGE}.{module}.{name}"] = {
                "module": module,
                "lines": [at + spans[original][0] - 2 for at in hit],
                "code": ast.dump(Silent().visit(old_tree)) != ast.dump(Silent().visit(new_tree)),
            }
    return found


def tried(mutant: str, items: list[Any], seconds: dict[str, float], watch: Any = None) -> tuple[int, str, float]:
    """Runs the tests in a fork until one fails: the wait status, the last test, CPU seconds. Its limits are CPU seconds too."""
    inlet, outlet = os.pipe()
    if os.fork() == 0:
        for stream in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        import_module("mutmut.mutation.trampoline").set_mutant_under_test(mutant)
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        run, Plugin.ends = import_module("_pytest.runner").runtestprotocol, watch is None
        for item, after in zip(items, [*items[1:], None], strict=True):
            os.write(outlet, item.nodeid.encode() + b"\n")
            signal.setitimer(signal.ITIMER_PROF, 10 + 10 * seconds.get(item.nodeid, 60.0))
            if watch is not None:
                watch.start()
            run(item, log=False, nextitem=after)
            if watch is not None:
                watch.stop()
                watch.save()
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet, "rb") as pipe:
        told = pipe.read().decode().split("\n")
    _, status, usage = os.wait3(0)
    return status, told[-2] if len(told) > 1 else "", usage.ru_utime + usage.ru_stime


def reach(items: list[Any]) -> None:
    """Each test in a fork of its own. A test that measures memory fails while it is watched; all must pass unwatched."""
    coverage, found = import_module("coverage"), {}
    for item in items:
        watch = coverage.Coverage(data_file=str(TOP / "watched"), include=[f"{SOURCE}/*.py"])
        *_, seconds = tried("", [item], {}, watch)
        data = coverage.CoverageData(str(TOP / "watched"))
        data.read()
        lines = {Path(name).stem: data.lines(name) for name in data.measured_files()}
        found[item.nodeid] = {"lines": lines, "seconds": seconds}
    status, last, _ = tried("", items, {})
    if status:
        raise SystemExit(f"fails unchanged: {last}")
    REACH.write_text(json.dumps(found))


def reaching(about: dict[str, Any], tests: dict[str, Any]) -> list[str]:
    lines = set(about["lines"])
    return [name for name, test in tests.items() if lines & set(test["lines"].get(about["module"], ()))]


def note(mutant: str, status: str, by: str) -> None:
    print(mutant, status, by, flush=True)
    with RESULTS.open("a") as out:
        out.write(json.dumps({"mutant": mutant, "status": status, "by": by}) + "\n")


def results() -> dict[str, str]:
    notes = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {one["mutant"]: one["status"] for one in map(json.loads, notes)}


def first(items: list[Any]) -> None:
    tests, kills, done = json.loads(REACH.read_text()), dict[str, Counter[str]](), results()
    least = min(test["seconds"] for test in tests.values())  # what a fork and the watch cost
    seconds = {name: test["seconds"] - least for name, test in tests.items()}
    by_name = {item.nodeid: item for item in items}
    for mutant, about in mutants().items():
        if not about["code"] or mutant in done:
            continue
        killers = kills.setdefault(mutant.partition("__mutmut_")[0], Counter())
        own = f"/test_{about['module']}.py"
        spent, chosen = 0.0, []
        for name in sorted(reaching(about, tests), key=lambda n: (-killers[n], own not in n, seconds[n])):
            if spent + seconds[name] <= BUDGET:
                spent += seconds[name]
                chosen.append(by_name[name])
        status, by, _ = tried(mutant, chosen, seconds)
        killers[by] += bool(status)
        note(mutant, {0: "survived", signal.SIGPROF: "timeout"}.get(status, "killed"), by if status else "")


def alone(items: list[Any]) -> None:
    """Leaves the tests that reach the mutant of this process, and those that are newer than reach.json."""
    tests = json.loads(REACH.read_text())
    wanted = set(reaching(mutants()[os.environ["MUTANT_UNDER_TEST"]], tests))
    items[:] = [item for item in items if item.nodeid in wanted or item.nodeid not in tests]
    items.sort(key=lambda item: tests[item.nodeid]["seconds"] if item.nodeid in tests else 0.0)


class Plugin:
    """Hands the collected tests to a step, which runs them itself, or chooses which are run."""

    ends = False

    def __init__(self, step: str) -> None:
        self.step, Plugin.ends = step, step == "alone"

    def pytest_runtest_makereport(self, call: Any) -> None:
        """A failure ends the process: its report would take longer than most tests."""
        if Plugin.ends and call.excinfo is not None:
            os._exit(1)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.step == "alone":
            alone(items)

    def pytest_runtestloop(self, session: Any) -> bool | None:
        if self.step == "alone":
            return None
        import_module("gc").freeze()
        {"reach": reach, "first": first}[self.step](session.items)
        return True


def main(step: str, *names: str) -> None:
    import_module("mutmut.configuration").config()
    if step == "make":
        files = import_module("mutmut.utils.file_utils")
        files.copy_src_dir()
        files.copy_also_copy_files()
        import_module("mutmut.__main__").create_mutants(1)
    elif step == "fresh":
        for mutant in names or [name for name, status in results().items() if status != "killed"]:
            command = [sys.executable, __file__, "alone"]
            made = subprocess.run(command, env=os.environ | {"MUTANT_UNDER_TEST": mutant}, check=False)  # noqa: S603
            note(mutant, {0: "survived", 1: "killed", 2: "killed"}.get(made.returncode, "timeout"), "fresh")
    else:
        os.chdir(TOP / "mutants")
        sys.path.insert(0, str(TOP / "mutants/src"))
        resource.setrlimit(resource.RLIMIT_CPU, (400, 400)) if step == "alone" else None
        arguments = ["--rootdir=.", "-xq", "--tb=no", *LEFT_OUT, TESTS]
        sys.exit(int(import_module("pytest").main(arguments, plugins=[Plugin(step)])))


if __name__ == "__main__":
    main(*sys.argv[1:])
