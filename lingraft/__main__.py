"""`python -m lingraft` and `torchrun -m lingraft`."""

from lingraft.cli import main

main()
