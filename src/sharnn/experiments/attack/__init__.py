"""The tokenization attack: the same architectures on the same bytes in several tokenizations."""
