"""The gates as a checklist: an icon, a word and a colour each, with what was found."""

from __future__ import annotations

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.pages.frame import Here, table
from fedward.dashboard.federation.views import gates


def checklist(here: Here) -> None:
    """How each gate stands by the newest model that was evaluated."""
    look = here.look
    made = here.reader.verdicts(look)
    if made is None:
        named = gates.asked(look)
        st.info("Not evaluated yet.", icon=":material/hourglass_empty:")
        if named:
            st.markdown("The study asks for:\n" + "\n".join(f"- {words.plain(text, 200)}" for text in named))
        else:
            st.markdown("The study names no gates.")
        return
    for verdict in made:
        mark = gates.mark(verdict)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(mark.word, icon=f":material/{mark.icon}:", color=mark.tone)
            st.markdown(words.plain(gates.told(verdict), 400), width="content")
    table("gates", gates.table(made), "gates")
