"""Bad input and hostile files against PlainMed; `python -m tests.fuzz` runs all of it."""
