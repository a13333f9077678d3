"""Saved plans of full-size jobs."""

import pytest

from planner.compress.schema import Plan
from tests.reports.records import load


@pytest.fixture(scope="module")
def gptq() -> Plan:
    return load("llama-3-8b-gptq_w4a16")


@pytest.fixture(scope="module")
def rtn() -> Plan:
    return load("llama-3-8b-rtn_fp8_dynamic")
