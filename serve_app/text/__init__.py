"""Text without models: sentences, the plain-language glossary, which texts can be scored.

Knows nothing of tensors, metrics or HTTP.
"""

from serve_app.text.glossary import Glossary

__all__ = ["Glossary"]
