"""What counts as one unit of text in every script: a Han character, or a run of other letters and digits.

Runs of units are what leakage and contamination compare, and what repetition and written answers are counted in.
"""

from __future__ import annotations

import re

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
HAN = re.compile(f"[{_HAN}]")
UNIT = re.compile(f"[{_HAN}]|[^\\W_{_HAN}]+")
