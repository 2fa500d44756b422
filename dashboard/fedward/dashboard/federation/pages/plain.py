"""The pages that are their layout and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from fedward.dashboard.federation.here import Here, Sentence
from fedward.dashboard.federation.layouts import accuracy as accuracy_layout
from fedward.dashboard.federation.layouts import fairness as fairness_layout
from fedward.dashboard.federation.layouts import participation as participation_layout
from fedward.dashboard.federation.layouts import privacy as privacy_layout
from fedward.dashboard.federation.layouts import study as study_layout
from fedward.dashboard.federation.pages.frame import page
from fedward.dashboard.screen import Screen
from fedward.dashboard.sheet import Sheet


def _page(sentence: Sentence, lay_out: Callable[[Here, Sheet], None], named: str) -> None:
    page(named, sentence, lambda here: lay_out(here, Screen()))


def study(named: str) -> None:
    """Is it running, and when is it done?"""
    _page(study_layout.sentence, study_layout.lay_out, named)


def accuracy(named: str) -> None:
    """Does it work?"""
    _page(accuracy_layout.sentence, accuracy_layout.lay_out, named)


def fairness(named: str) -> None:
    """For whom does it work less well?"""
    _page(fairness_layout.sentence, fairness_layout.lay_out, named)


def privacy(named: str) -> None:
    """What has it cost?"""
    _page(privacy_layout.sentence, privacy_layout.lay_out, named)


def participation(named: str) -> None:
    """Who took part, and why did someone not?"""
    _page(_who, participation_layout.lay_out, named)


def _who(here: Here) -> str:
    newest = int(st.session_state.get(participation_layout.WINDOW) or participation_layout.WINDOWS[0])
    return participation_layout.sentence(here, newest)
