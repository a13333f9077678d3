"""GGUF: which ggml type llama.cpp's quantizer gives each tensor of a model, and what the file weighs."""
