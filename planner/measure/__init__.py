"""Runs a planned job on a real machine, records it, and compares the plan with the record.

`record`, `files`, `logs` and `accuracy` are pure. `checks`, `model`, `probes`, `steps` and `run`
import torch and llmcompressor, and are reached from `planner measure` alone.
"""
