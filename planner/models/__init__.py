"""The model: where it comes from, its graph of onload units, its traced forward."""
