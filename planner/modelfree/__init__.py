"""Compression without a model: llmcompressor.model_free_ptq, file by file of a checkpoint."""
