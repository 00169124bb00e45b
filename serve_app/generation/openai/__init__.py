"""The engine for servers that speak the OpenAI API, such as vLLM.

Knows chat messages and that API's errors; needs the `openai` extra.
"""

__all__ = ["engine", "errors", "messages"]
