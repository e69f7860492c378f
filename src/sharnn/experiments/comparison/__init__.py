"""Recipes under equal conditions: who takes part, their runs in turn, and what came of them."""
