"""Sampling: sessions, streams and the step path."""
