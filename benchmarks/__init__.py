"""Every claim of speed is made here: peers and ours side by side, in one run, as ratios."""
