"""Trains and evaluates `alignscore-mini`; nothing here is needed to serve."""
