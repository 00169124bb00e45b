"""PlainMed: measures, combines and generates plain-language summaries of medical text.

The package is split so that each part can be used alone: `metrics`, `loss` and
`calibration` are plain libraries; `generation` writes summaries; `deployments`,
`gateway` and `app` put them behind HTTP with Ray Serve.
"""

__version__ = "0.1.0"
