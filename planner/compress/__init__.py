"""The job without its bytes: pipelines and modifiers on the books. Pure Python, no torch."""
