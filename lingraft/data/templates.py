"""Chat templates by Jinja: the model's own where it has one, else one named here.

``auto`` means the model's own, else ``alpaca``. The template that trained a model is saved beside it, so
that chatting with it later renders exactly what it saw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lingraft.problems import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Chinese-Alpaca-2's bilingual system prompt: https://github.com/ymcui/Chinese-LLaMA-Alpaca-2
BILINGUAL = "You are a helpful assistant. 你是一个乐于助人的助手。"

_LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '" + BILINGUAL + "' %}"
    "{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\n\n' + message['content'].strip() + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As ChatML, with the system line that Qwen 2.5 puts where there is none.
_QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}" + _CHATML
)
# Stanford Alpaca's prompt, carried on over several turns.
_ALPACA = (
    "BOS{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'].strip() + '\n\n' }}"
    "{% set turns = messages[1:] %}{% else %}{{ 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n' }}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'].strip() + '\n\n### Response:\n' }}"
    "{% else %}{{ message['content'].strip() + eos_token + '\n\n' }}{% endif %}{% endfor %}"
)
NAMED = {"llama2": _LLAMA2, "llama3": _LLAMA3, "chatml": _CHATML, "qwen": _QWEN, "alpaca": _ALPACA}
# Words of a template that must be single tokens of the tokenizer, or the model could never end its turn.
_MARKS = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "qwen": ("<|im_start|>", "<|im_end|>"),
}


def resolve(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the Jinja text that ``template`` means: ``auto``, a name, a .jinja file, or Jinja itself.

    Errors: `recipe-invalid` for an unknown name, `tokenizer-mismatch` where the tokenizer lacks the
    template's marks.
    """
    if template == "auto":
        own = tokenizer.chat_template
        return str(own) if isinstance(own, str) else resolve("alpaca", tokenizer)
    if "{{" in template or "{%" in template:
        return template
    if template in NAMED:
        _require_marks(template, tokenizer)
        return NAMED[template].replace("BOS", "{{ bos_token }}" if _begins_with_bos(tokenizer) else "", 1)
    if not Path(template).is_file():
        refuse(
            "recipe-invalid",
            f"template: {template!r} is no template",
            f"use auto, {', '.join(NAMED)}, or a .jinja file",
        )
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse("unreadable", f"template: {template} cannot be read: {error}", "save it as UTF-8 text", template)


def save_beside(template: str, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the template into a tokenizer's directory unless it is the tokenizer's own already."""
    if template != tokenizer.chat_template:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def _begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _require_marks(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    marks = _MARKS.get(name, (tokenizer.eos_token or "",))
    vocabulary = tokenizer.get_vocab()
    absent = [mark or "an end-of-text token" for mark in marks if mark not in vocabulary]
    if name == "llama2" and tokenizer.bos_token is None:
        absent.append("a beginning-of-text token")
    if absent:
        refuse(
            "tokenizer-mismatch",
            f"template {name}: the tokenizer has no {', '.join(absent)}",
            "choose another template (auto, alpaca)",
        )
