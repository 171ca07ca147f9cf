"""Full, LoRA or QLoRA? Memory and time of each way to train a model, before a byte of it is downloaded.

hardware: what it runs on · skeleton: a model without weights · step: one update traced on the meta device ·
memory: the parts and the peak · advice: which to choose · run: the verb and `check`'s question
"""
