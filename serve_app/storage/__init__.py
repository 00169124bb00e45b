"""Files on this machine, in S3 and on the Hugging Face Hub: reads, writes, downloads, uploads.

Knows nothing of what is in them. `locate.locate` gives a file by its name; `artifacts` turns a
reference to weights into a local path, through a cache.
"""

from serve_app.storage.base import File, Folder
from serve_app.storage.locate import locate

__all__ = ["File", "Folder", "locate"]
