"""Data: known corpora, preparation of texts, memory-mapped tokens and lanes."""
