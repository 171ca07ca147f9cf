"""From files to blocks of tokens: read text and conversations, render them, pack them.

files → text | conversations → templates → pack. Nothing here knows a model; a tokenizer is all it takes.
"""
