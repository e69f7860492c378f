"""Experiments over many trainings: contenders under equal conditions, and the tokenization attack."""
