"""Weights without code or config → a complete Hugging Face directory (`lingraft adopt SRC OUT`).

The path of a checkpoint through this room: `refusals` (what cannot be adopted), `names` (to Hugging Face names),
`families` and `infer` (what names and shapes tell), `candidates` (what they cannot), `probe` and `decide` (which
candidate the weights themselves speak for), `tokenizer`, and `run`, which writes.
"""
