"""Compares systems by what they scored: reads scored files, computes, and shows the result.

`reading` makes `System`s of files, `pairing` matches their rows, `statistics` computes,
`analysis` puts a `Report` together, `examples` and `truncation` look at texts; `page`, `markdown`
and `document` show it. `biolaysumm` is the suite of that shared task.
"""
