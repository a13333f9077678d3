"""Jobs run with the real LLM Compressor on PyTorch's own CUDA build (tests/cudameter), and their plans beside them."""
