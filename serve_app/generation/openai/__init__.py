"""The engine for servers that speak the OpenAI API, such as vLLM.

Knows that API, its errors and its client; needs the `openai` extra.
"""

__all__ = ["engine", "errors"]
