"""Compares systems by what they scored: reads scored files, computes, and shows the result.

`reader` makes `System`s of files, `matching` pairs their rows, `statistics` computes, `analysis`
puts a `Report` together, `examples` and `highlights` look at texts; `to_html`, `to_markdown` and
`to_json` show it. `biolaysumm` is the suite of that shared task.
"""

__all__ = ["analysis", "biolaysumm", "reader", "systems", "to_html", "to_json", "to_markdown"]
