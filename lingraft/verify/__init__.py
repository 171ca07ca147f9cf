"""Proofs: that training changed what it should have, and that a merge is what it claims to be."""
