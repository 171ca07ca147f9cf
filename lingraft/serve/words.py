"""Turn a model's tokens into text as they come, holding back a character until all its bytes are there."""

from __future__ import annotations

from typing import Any


class Words:
    """Feed token ids in, get text out; special tokens are left out."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.said = ""
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.stream = DecodeStream(skip_special_tokens=True) if self.backend is not None else None

    def feed(self, token: int) -> str:
        """Return the text that this token completes."""
        self.ids.append(token)
        if self.stream is not None:
            text = self.stream.step(self.backend, token) or ""
        else:  # a tokenizer that is not in the tokenizers library: decode everything again
            whole = self._whole()
            text = "" if whole.endswith("�") else whole[len(self.said) :]
        self.said += text
        return text

    def rest(self) -> str:
        """Return what was held back, when no more tokens will come."""
        whole = self._whole()
        return whole[len(self.said) :] if whole.startswith(self.said) else ""

    def _whole(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))
