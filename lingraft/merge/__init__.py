"""Adapters into a base: what an adapter's tensors mean, how they are applied, and the proof of what was done."""
