"""The vocabulary stage: learn pieces, extend the tokenizer, give the new rows their first values, measure."""
