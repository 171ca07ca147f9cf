"""Weights on disk: lazy tensors under Hugging Face names, whatever the container.

Knows nothing of the rest of lingraft but `problems` and `output`.
"""
