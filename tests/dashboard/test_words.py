"""Figures as the field writes them, and text of files that stays text."""

from __future__ import annotations

import math

import pytest

from fedward.dashboard import words


def test_figures() -> None:
    assert [words.figure(value) for value in (0.8941, 1.0, 0.0, -0.02, math.nan)] == [
        ".894",
        "1.000",
        ".000",
        "−.020",
        "undefined",
    ]
    assert [words.signed(value) for value in (0.031, -0.019, 0.0, 0.0002, -0.0002, math.nan)] == [
        "+.031",
        "−.019",
        ".000",
        ".000",
        ".000",
        "undefined",
    ]
    assert words.estimate(0.9, 0.85, 0.95) == ".900 (.850–.950)"
    assert words.estimate(0.9, math.nan, math.nan) == ".900"
    assert words.difference(0.05, -0.01, 0.11) == "+.050 (−.010 to +.110)"


def test_groups_as_people_say_them() -> None:
    assert words.group("age in [50, 65)") == "age 50 to under 65"
    assert words.group("sex=female") == "sex: female"
    assert words.group("a=b=c") == "a: b=c"
    assert words.group("sex=female & age in [50, 65)") == "sex: female, age 50 to under 65"
    assert words.group("age in [50, 65) & cp=non-anginal") == "age 50 to under 65, cp: non-anginal"
    assert words.group("diet=fish & chips") == "diet: fish & chips"
    assert [words.attribute(name) for name in ("age in [50, 65)", "sex=female")] == ["age", "sex"]
    assert words.attribute("sex=female & age in [50, 65)") == "sex & age"
    assert words.attribute("diet=fish & chips") == "diet"


@pytest.mark.parametrize(
    "text",
    ["[a](http://b.c)", "**b**", "`c`", "# d", "<b>e</b>", "$f$", ":red[g]", ":smile:", "a|b", "~~h~~", "1. i", "> j"],
)
def test_no_sign_of_markdown_is_left_unescaped(text: str) -> None:
    shown = words.plain(text)
    assert all(shown[place - 1] == "\\" for place, sign in enumerate(shown) if sign in "[]()*`#<>$:|~." and place)
    assert shown[0] not in "[*`#<$:|~>"
    assert ":s" not in shown
    assert "://" not in shown.replace("\\", "")


def test_unseen_signs_go_and_length_is_bounded() -> None:
    assert words.one_line("a\n\tb\u202ec\x00d") == "a b c d"
    assert len(words.one_line("x" * 900)) == 200
    assert words.listed(["a", "b", "c"], 2) == "a, b and 1 more"


def test_since_when() -> None:
    assert [words.ago(one) for one in (-1, 5, 119, 121, 7300, 900_000)] == [
        "0 s ago",
        "5 s ago",
        "119 s ago",
        "2 minutes ago",
        "2 hours ago",
        "10 days ago",
    ]
