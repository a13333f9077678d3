"""The calibration pipelines (llmcompressor/pipelines/*), walked step by step on the books."""
