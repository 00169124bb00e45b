"""Who may call: API keys, where they are kept, their limits, and where none are needed."""

__all__ = ["api_key_gate", "api_keys", "exposure", "key_source"]
