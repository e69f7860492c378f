"""Learning curves as pictures and a page."""
