"""Trains `alignscore-mini`, and generators against the loss; nothing here is needed to serve.

`reward*` are reward functions for TRL, `adapters` the metrics in other libraries' shapes,
`generator_*` the recipe of scripts/train_generator.py; the other modules make the factuality model.
"""
