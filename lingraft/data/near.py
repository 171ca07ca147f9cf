"""Know near duplicates again by MinHash: Broder 1997, "On the resemblance and containment of documents".

Sketches and their index are rensa's (Rust): some thousand texts a second, and about a kilobyte of memory a text. What
the index finds is held against the sketches once more, so that bands alone never decide.
"""

from __future__ import annotations

import numpy as np
import rensa

_HASHES = 128  # the estimate's standard deviation is then at most 0.044
_RECALL = 0.99  # of pairs at the threshold that the index finds
_BLOCK = 1024


class Sketches:
    """Sketches of the texts so far; ``new`` tells whether a text is unlike all of them, and remembers it if so."""

    def __init__(self, threshold: float, n: int) -> None:
        if not 0 < threshold <= 1 or n < 1:
            raise ValueError(f"near_duplicates: a threshold between 0 and 1 and n from 1 on, not {threshold:g} and {n}")
        self.threshold, self.n, self.count = threshold, n, 0
        bands = bands_for(threshold)
        self.index = rensa.RMinHashLSH(threshold=threshold, num_perm=_HASHES, num_bands=bands)
        self.digests = np.zeros((_BLOCK, _HASHES), dtype=np.uint32)

    def new(self, text: str) -> bool:
        """Tell whether no earlier text shares more than ``threshold`` of its runs of ``n`` characters (Jaccard)."""
        sketch = rensa.RMinHash(num_perm=_HASHES, seed=1)
        sketch.update([text[i : i + self.n] for i in range(max(1, len(text) - self.n + 1))])
        digest = np.asarray(sketch.digest(), dtype=np.uint32)
        near = self.index.query(sketch)
        if near and bool(((self.digests[near] == digest).mean(1) >= self.threshold).any()):
            return False
        self._remember(sketch, digest)
        return True

    def _remember(self, sketch: object, digest: np.ndarray) -> None:
        if self.count == len(self.digests):
            self.digests = np.concatenate([self.digests, np.zeros_like(self.digests)])
        self.digests[self.count] = digest
        self.index.insert(self.count, sketch)
        self.count += 1


def bands_for(threshold: float) -> int:
    """Return the fewest bands that find _RECALL of the pairs whose likeness is ``threshold``."""
    options = [2**k for k in range(_HASHES.bit_length())]
    return next((b for b in options if 1 - (1 - threshold ** (_HASHES // b)) ** b >= _RECALL), _HASHES)
