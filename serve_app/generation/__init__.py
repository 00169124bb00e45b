"""Generator engines behind one small Protocol."""
