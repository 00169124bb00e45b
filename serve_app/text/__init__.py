"""Text without models: sentences, the plain-language glossary, and which texts can be scored.

Knows no tensor, no metric and no HTTP.
"""

from serve_app.text.glossary import Glossary

__all__ = ["Glossary"]
