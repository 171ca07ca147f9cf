"""One training loop for every stage, and the techniques that change what it trains.

stage → sources → assemble (base + live adapters + techniques) → loop (transformers.Trainer) → saving.
"""
