"""The five metrics as a plain library: no Ray, no HTTP, no network.

`bertscore` (relevance), `alignscore` (factuality) and `readability` each stand alone;
both model metrics run on the one `encoder` runtime, which knows neither.
"""
