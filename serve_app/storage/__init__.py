"""Files on this machine, in S3 and on the Hugging Face Hub: reads, writes, downloads, uploads.

Knows nothing of what is in them. `locate.place` gives a file by its name; `artifacts` turns a
reference to weights into a local path, through a cache.
"""

from serve_app.storage.base import Place, Store
from serve_app.storage.locate import place

__all__ = ["Place", "Store", "place"]
