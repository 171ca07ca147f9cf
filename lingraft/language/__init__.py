"""Say in Chinese what lingraft says in English, where the user's settings ask for it.

The code writes plain English, f-strings and all. Chinese is found at the border, where a text is shown: it is matched
against the templates in zh/*.json and filled in again (catalogue.py). A text without a template stays English.
Codes, keys and names never change.
"""

from __future__ import annotations

import os
from typing import Literal

Language = Literal["en", "zh"]
SETTINGS = ("LINGRAFT_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def language() -> Language:
    """Return the user's language: the first of LINGRAFT_LANG, LC_ALL, LC_MESSAGES and LANG that is set decides."""
    named = next((value for key in SETTINGS if (value := os.environ.get(key))), "")
    return "zh" if named.lower().startswith(("zh", "chinese")) else "en"


def told(text: str) -> str:
    """Return a text in the user's language."""
    return text if language() == "en" else chinese(text)


def chinese(text: str) -> str:
    """Return a text in Chinese, or as it is where nobody has translated it."""
    from lingraft.language.catalogue import shipped

    return shipped().translate(text)


def told_summary(text: str) -> str:
    """Return what a verb prints at its end in the user's language."""
    if language() == "en":
        return text
    from lingraft.language.summary import summary

    return summary(text)
