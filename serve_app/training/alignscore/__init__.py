"""Training of the embedded factuality model: its data, its fast forward pass, its measurements."""
