"""What counts as Chinese: Han characters, the punctuation that goes with them, and pieces made of both.

Every rule that says "text without Han is encoded as before" rests on `is_piece`: a new piece always holds a Han
character, so it cannot match where there is none.
"""

from __future__ import annotations

import re

# CJK unified ideographs with extensions, compatibility ideographs, and the iteration mark 々 and zero 〇.
_HAN = (
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002ebef\U0002ebf0-\U0002ee5f\U0002f800-\U0002fa1f\U00030000-\U000323af"
)
_PUNCTUATION = "\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65“”‘’…—·～"
HAN = re.compile(f"[{_HAN}]")
HAN_RUN = re.compile(f"[{_HAN}]+")
_PIECE = re.compile(f"[{_HAN}{_PUNCTUATION}]+")


def has_han(text: str) -> bool:
    """Tell whether a text holds any Han character."""
    return HAN.search(text) is not None


def is_han(text: str) -> bool:
    """Tell whether a text is Han characters and nothing else."""
    return HAN_RUN.fullmatch(text) is not None


def is_piece(text: str) -> bool:
    """Tell whether a text may be a new piece: Han characters and Chinese punctuation, at least one of them Han."""
    return _PIECE.fullmatch(text) is not None and has_han(text)
