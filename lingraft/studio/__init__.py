"""`lingraft studio`: one local web page for runs, weights, vocabularies and conversations.

run.py      the verb: where it listens, and who may come in (guard.py)
page.py     the page put together: header, language, four tabs, one file each:
            runs.py · weights.py · vocabulary.py · chat.py
folders.py  what a run folder says     shown.py  answers as HTML     cut.py  a sentence in pieces
words.py    both languages             html.py   safe HTML           look.css
"""
