"""Hold an answer that must be JSON against being JSON.

llama.cpp drops a schema that it does not understand (an unknown type, a $ref that leads nowhere) without a word and
answers freely; the client shall hear of it.
"""

from __future__ import annotations

import json

from lingraft.serve.engine import BadRequest, Emit, Piece

STARTS = frozenset('{["-0123456789tfn')


def json_only(emit: Emit, whole: bool) -> Emit:
    """Return an ``emit`` that raises BadRequest at what is no JSON; ``whole``: an answer that has ended is complete."""
    heard: list[str] = []

    def checked(piece: Piece) -> bool:
        begins = "" if heard else piece.text.lstrip()
        if begins or heard:
            heard.append(piece.text)
        ended = whole and piece.finish == "stop"
        if (begins and begins[0] not in STARTS) or (ended and not _is_json("".join(heard))):
            raise BadRequest(
                "the engine did not keep to this response_format: it may not understand the schema", "response_format"
            )
        return emit(piece)

    return checked


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
