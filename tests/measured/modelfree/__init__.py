"""model_free_ptq run with the real LLM Compressor, on the pretended card and on the CPU, and its plans beside it."""
