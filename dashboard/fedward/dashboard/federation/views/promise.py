"""What the study promises patients, in words: on every page, and the Privacy page's own."""

from __future__ import annotations

from fedward.dashboard.federation.reading import Look
from fedward.study.terms import privacy_words


def words_of(look: Look) -> str:
    """ε with the words that it means nothing without."""
    privacy = look.manifest.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return "The study trains without differential privacy: it promises patients nothing."
    return f"This study costs a patient ε at most {privacy.epsilon:g} at δ = {privacy.delta:g}: {privacy_words(look.manifest)}."
