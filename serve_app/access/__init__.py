"""Who may call: API keys, and how much each may ask for. No Ray, no models, no routes' logic."""
