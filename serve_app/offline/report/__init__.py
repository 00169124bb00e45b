"""Compares systems by what they scored: reads scored files, computes, and shows the result.

`reader` makes `systems` of files and `biolaysumm` of a shared task's; `statistics` computes,
`examples` looks at texts, `analysis` puts a `Report` together, `render` shows it.
"""

__all__ = ["analysis", "biolaysumm", "reader", "render", "systems"]
