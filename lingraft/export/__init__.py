"""Carry a model out of the house: GGUF and GGUF adapters for llama.cpp, quantised directories, the Hub."""
