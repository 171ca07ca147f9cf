"""The page's own words in both languages, and the switch between them.

What the server draws as HTML holds both languages, and CSS shows one. Labels of gradio's components hold plain text:
they are registered here and sent again when the language changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lingraft.language import Language

CHOICES: dict[Language, str] = {"en": "English", "zh": "中文"}


@dataclass(frozen=True)
class Both:
    """One text in both languages."""

    en: str
    zh: str

    def pick(self, language: Language) -> str:
        """Return the text in one of them."""
        return self.zh if language == "zh" else self.en


Spoken = Both | list[tuple[Both, str]]  # a label, or the choices of a component


@dataclass(frozen=True)
class Words:
    """Make components whose labels follow the language."""

    language: Language  # at the start, before the browser says what it wants
    made: list[tuple[Any, type, dict[str, Spoken]]] = field(default_factory=list)

    def make(self, kind: Callable[..., Any], /, **settings: Any) -> Any:
        """Make a gradio component; labels and choices that are `Both` are shown in the language of the page."""
        spoken = {name: value for name, value in settings.items() if _is_spoken(value)}
        component = kind(**settings | {name: _pick(value, self.language) for name, value in spoken.items()})
        self.made.append((component, type(component), spoken))
        return component

    def text(self, **settings: Any) -> Any:
        """Make a text field; an empty one holds an empty text, not None."""
        import gradio as gr

        return self.make(gr.Textbox, **{"value": "", **settings})

    def components(self) -> list[Any]:
        """List the components that `switch` updates, in its order."""
        return [component for component, _, _ in self.made]

    def switch(self, choice: str) -> list[Any]:
        """Return an update for every component."""
        language: Language = "zh" if choice == CHOICES["zh"] else "en"
        return [
            kind(**{name: _pick(value, language) for name, value in spoken.items()}) for _, kind, spoken in self.made
        ]


def _is_spoken(value: Any) -> bool:
    return isinstance(value, Both) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], tuple) and isinstance(value[0][0], Both)
    )


def _pick(value: Spoken, language: Language) -> Any:
    if isinstance(value, Both):
        return value.pick(language)
    return [(label.pick(language), name) for label, name in value]
