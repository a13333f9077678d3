"""What PyTorch's CUDA build takes from a card: operators' own allocations, and the caching allocator."""
