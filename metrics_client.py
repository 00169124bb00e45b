"""The earlier system's client module."""
