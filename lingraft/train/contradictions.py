"""Inputs that stand in the data more than once with different answers: counted by the data room."""

from lingraft.data.contradictions import contradictions

__all__ = ["contradictions"]
