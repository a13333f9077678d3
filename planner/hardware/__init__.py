"""Machines and their cards: tables with sources, this machine, and what a command line says of one."""

from planner.hardware.gpus import (
    AS_GIVEN,
    TABLE,
    Gpu,
    agreed_gpu,
    cards_labelled,
    find_gpu,
    label_notes,
    list_gpus,
    matching_gpu,
    named_gpu,
    size_notes,
)

__all__ = [
    "AS_GIVEN",
    "TABLE",
    "Gpu",
    "agreed_gpu",
    "cards_labelled",
    "find_gpu",
    "label_notes",
    "list_gpus",
    "matching_gpu",
    "named_gpu",
    "size_notes",
]
