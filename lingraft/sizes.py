"""Sizes as people write them: 5GB, 512MiB, 24G."""

from __future__ import annotations

import re


def parse_size(text: str, bare: str = "") -> int:
    """Return bytes: 24GB is 24·10⁹, 24GiB is 24·2³⁰; a bare number counts in ``bare`` ("" for bytes, "G" for GB).

    Raises ValueError for what is no size, or none of at least a byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)(B?)\s*", text.upper())
    nbytes = 0
    if match is not None:
        unit = match[2] or ("" if match[4] else bare)
        nbytes = int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(unit or " "))
    if nbytes < 1:
        raise ValueError(f"{text!r} is no size: write 24GB, 512MB or 2GiB")
    return nbytes
