"""Use a model: terminal chat, OpenAI-compatible server, web page."""
