"""From texts to lanes: known corpora, preparation, memory maps."""
