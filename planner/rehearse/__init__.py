"""Runs a script, unmodified, on PyTorch's own CUDA build over a card that is not there, and reports its memory.

`build`, `run`, `events`, `trace` and `report` are the parent's, without torch. `child` is what runs beside the script,
`driver` what is compiled for it.
"""
