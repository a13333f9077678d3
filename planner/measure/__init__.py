"""The same job on a real machine: run it, record it, and lay the plan beside it.

`record`, `files`, `logs` and `accuracy` are pure. `checks`, `model`, `probes`, `steps` and `run`
import torch and llmcompressor, and are reached from `planner measure` alone.
"""
