"""Who may call: API keys, where they come from, their rates, and calls from other hosts."""

__all__ = ["api_key_gate", "api_keys", "host_gate", "key_source", "rate_limit"]
