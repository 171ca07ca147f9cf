"""lingraft teaches an open-weight language model a new language or domain, and gets the weights right."""

__version__ = "0.1.0"
