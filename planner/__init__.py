"""Plan the CPU and GPU memory of an LLM Compressor job, step by step, without running it."""
