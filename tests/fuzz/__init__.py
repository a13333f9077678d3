"""Inputs that nobody would type: mutated configs, recipes and options, and what must hold whatever they are."""
