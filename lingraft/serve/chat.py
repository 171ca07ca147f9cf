"""`lingraft chat MODEL [--adapter A]… [--system TEXT]`: talk with a model in the terminal.

Streams its answers and remembers the conversation. A line that ends in a backslash goes on in the next one, and
so does everything between two lines of three quotation marks; on a terminal, Alt-Enter and pasted lines do, too. Where
stdin is no terminal, every line is a question and every answer is one line on stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from lingraft import models
from lingraft.problems import Findings, Refusal
from lingraft.serve.choose import open_engine, options_for
from lingraft.serve.engine import BadRequest, Engine, EngineName
from lingraft.serve.lines import questions, reader
from lingraft.serve.voice import MAX_NEW_TOKENS, Message, Speaker, Voices, label

HELP = """/system TEXT     set the system message (alone: remove it); the conversation begins anew
/adapter         list base and adapters; /adapter N speaks with that one, /adapter PATH adds one on top
/compare TEXT    ask every one of them the same, without the conversation so far
/clear           forget the conversation
/history         show the conversation
/help  /quit     a line ending in \\ goes on in the next; so does text between lines of \"\"\", and Alt-Enter"""


@dataclass
class Talk:
    """One conversation: with whom, under which system message, and what was said."""

    voices: Voices
    current: models.Stack
    write: Callable[[str], None]  # what the model says
    tell: Callable[[str], None]  # what the program says
    system: str | None = None
    said: list[Message] = field(default_factory=list)
    most: int = MAX_NEW_TOKENS
    end: Callable[[], None] | None = None  # what is done behind an answer; None: a new line is written

    def messages(self) -> list[Message]:
        """Return the conversation as the model reads it."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.said]

    def ask(self, text: str) -> None:
        """Put a question and stream the answer; an interrupted answer is remembered as far as it went."""
        question = {"role": "user", "content": text}
        answer = self._stream(self.voices.get(self.current), [*self.messages(), question])
        self.said += [question, {"role": "assistant", "content": answer}]

    def _stream(self, voice: Speaker, messages: Sequence[Message]) -> str:
        heard = ""
        pieces = voice.answer(messages, self.most)
        try:
            for piece in pieces:
                heard += piece
                self.write(piece)
        except KeyboardInterrupt:
            self.tell(" (stopped)")
        finally:
            pieces.close()
        self.end() if self.end else self.write("\n")
        return heard.strip()


def chat(
    model: str,
    base: str | None = None,
    adapters: Sequence[str] = (),
    system: str | None = None,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
    most: int = MAX_NEW_TOKENS,
    engine: EngineName = "auto",
    findings: Findings | None = None,
    **how: Any,
) -> None:
    """Talk until the input ends or /quit; ``how`` goes to `Options`. Errors: those of the engine."""
    source, sink = stdin or sys.stdin, stdout or sys.stdout
    options = options_for(model, base, concurrency=1, **how)
    stack = models.Stack(options.base, (*options.main, *(models.locate(path) for path in adapters)))
    looking = findings or Findings()

    def opened(wanted: models.Stack) -> Engine:
        return open_engine(replace(options, main=wanted.adapters, name=label(wanted)), engine, looking)

    voices = Voices(stack, opened)
    try:
        _talk(voices, system, most, source, sink)
    finally:
        voices.close()


def _talk(voices: Voices, system: str | None, most: int, source: TextIO, sink: TextIO) -> None:
    terminal = source.isatty()
    line = _OneLine(sink)

    def write(text: str) -> None:
        sink.write(text)
        sink.flush()

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    talk = Talk(voices, voices.stack, write, tell, system, most=most)
    if not terminal:
        talk.write, talk.end = line.held.append, line.end
    voice = voices.get(talk.current)
    if not voice.has_template:
        tell(f"{voice.label} has no chat template: it continues your text rather than answering it")
    if terminal:
        tell(f"{voice.label} ({voice.engine.kind}). /help lists commands, /quit or Ctrl-D ends.")
    for text in questions(reader(source)):
        if not turn(talk, text):
            return


def turn(talk: Talk, text: str) -> bool:
    """Act on one input; return False where it ends the conversation."""
    word, _, rest = text.strip().partition(" ")
    if word in ("/quit", "/exit"):
        return False
    try:
        if word in COMMANDS:
            COMMANDS[word](talk, rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            talk.tell(f"{word} is no command; /help lists them")
        elif text.strip():
            talk.ask(text)
    except Refusal as refusal:
        for problem in refusal.problems:
            talk.tell(f"{problem.code}: {problem.message}\n  {problem.remedy}")
    except BadRequest as refused:
        talk.tell(str(refused))
    return True


def _system(talk: Talk, text: str) -> None:
    talk.system = text or None
    talk.said.clear()
    talk.tell("system message set" if text else "system message removed")


def _adapter(talk: Talk, text: str) -> None:
    if text.isdigit() and int(text) < len(talk.voices.stacks()):
        talk.current = talk.voices.stacks()[int(text)]
    elif text:
        more = models.stack(text, str(talk.voices.stack.base))
        known = talk.voices.stack.adapters
        new = (adapter for adapter in more.adapters if adapter not in known)
        talk.voices.stack = models.Stack(talk.voices.stack.base, (*known, *new))
        talk.current = talk.voices.stack
    if text:
        talk.voices.get(talk.current)
    for number, stack in enumerate(talk.voices.stacks()):
        talk.tell(f"{'*' if stack == talk.current else ' '} {number}  {label(stack)}")


def _compare(talk: Talk, text: str) -> None:
    if not text:
        talk.tell("write the question behind /compare")
        return
    if len(talk.voices.stacks()) == 1:
        talk.tell("there is one model alone; add one with /adapter PATH or --adapter")
    question: list[Message] = [{"role": "system", "content": talk.system}] if talk.system else []
    for stack in talk.voices.stacks():
        talk.tell(f"[{label(stack)}]")
        talk._stream(talk.voices.get(stack), [*question, {"role": "user", "content": text}])


def _history(talk: Talk, _: str) -> None:
    for message in talk.messages() or [{"role": "", "content": "nothing was said yet"}]:
        talk.tell(f"{message['role']}: {message['content']}".removeprefix(": "))


def _clear(talk: Talk, _: str) -> None:
    talk.said.clear()
    talk.tell("forgotten")


COMMANDS: dict[str, Callable[[Talk, str], None]] = {
    "/help": lambda talk, _: talk.tell(HELP),
    "/system": _system,
    "/adapter": _adapter,
    "/compare": _compare,
    "/clear": _clear,
    "/history": _history,
}


@dataclass
class _OneLine:
    """Keep an answer on one line of a pipe: what breaks lines inside it becomes a space."""

    sink: TextIO
    held: list[str] = field(default_factory=list)

    def end(self) -> None:
        """Write what was held."""
        self.sink.write(" ".join("".join(self.held).split()) + "\n")
        self.sink.flush()
        self.held.clear()
