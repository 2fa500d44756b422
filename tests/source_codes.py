"""Every error code in the sources, found by reading them: what is raised, reported or listed under a code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedward.study.codes import CODES

ROOT = Path(__file__).parents[1]
PACKAGES = ("study", "privacy", "client", "server", "simulations", "dashboard", "cli")
STATES = (
    "client/fedward/client/flower/diagnosis.py",
    "server/fedward/server/flower/replies.py",
    "study/fedward/study/connection.py",
)
NO_CODES = {"fedward", "payload", "query.fedward", "fedward-refusal"}  # names of fields beside the states
CODE = re.compile(r"[a-z][a-z0-9-]{2,47}")
Positions = Mapping[str, int]


def source_codes() -> dict[str, str]:
    """Code → where it was found first."""
    return dict.fromkeys(CODES, "study/fedward/study/codes.py") | {
        code: places[0] for code, places in source_places().items() if code not in CODES
    }


def source_places() -> dict[str, list[str]]:
    """Code → every file that gives it."""
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for name in PACKAGES
        for path in sorted((ROOT / name).rglob("*.py"))
    }
    positions: dict[str, int] = {}
    for tree in trees.values():
        positions |= dict(_takers(tree))
    found: dict[str, list[str]] = {}
    for path, tree in trees.items():
        place = path.relative_to(ROOT).as_posix()
        codes = set(codes_in(tree, positions))
        if place in STATES:
            codes |= set(_constants(tree).values()) - NO_CODES
        for code in codes:
            found.setdefault(code, []).append(place)
    return found


def codes_in(tree: ast.Module, positions: Positions) -> Iterator[str]:
    """What a file gives as a code: by keyword, by place, as `default_code`, or in a variable called `code`."""
    known = _constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            place = positions.get(_name(node.func))
            if place is not None and len(node.args) > place:
                given.append(node.args[place])
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            given = [node.value] if any(_name(target) in {"code", "default_code"} for target in targets) else []
        else:
            continue
        for value in given:
            yield from (text for text in _strings(value, known) if CODE.fullmatch(text))


def _takers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Functions and classes that take a code by place: their names, and which argument it is."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [
                argument.arg
                for argument in (*node.args.posonlyargs, *node.args.args)
                if argument.arg not in {"self", "cls"}
            ]
            if "code" in names:
                yield node.name, names.index("code")
        elif isinstance(node, ast.ClassDef):
            names = [
                part.target.id
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            ]
            if "code" in names:
                yield node.name, names.index("code")


def _constants(tree: ast.Module) -> dict[str, str]:
    """The file's constants that are one string."""
    found = {}
    for node in tree.body:
        if (
            isinstance(node, (ast.Assign, ast.AnnAssign))
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found[_name(target)] = node.value.value
    return found


def _strings(node: ast.expr, known: Mapping[str, str]) -> Iterator[str]:
    """The strings that an expression can be, through conditionals and the file's constants."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _strings(node.body, known)
        yield from _strings(node.orelse, known)
    elif isinstance(node, ast.Name) and node.id in known:
        yield known[node.id]


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
