"""PlainMed: measures, combines and generates plain-language summaries of medical text.

Each package can be used alone: `metrics` is a plain library, `generation` writes summaries,
`offline` works on whole files, `api` and `serving` put them behind HTTP with Ray Serve, `client`
calls such a server. `app` is the graph of the Serve application.
"""

from serve_app.core.moved import keep_old_names as _keep_old_names

__version__ = "0.1.0"

__all__ = ["__version__"]

_keep_old_names()
