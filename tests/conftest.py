"""Settings of all tests."""

import os

from hypothesis import settings

# How long an example takes says nothing about what it tests; in CI the examples are the same each time.
settings.register_profile("planner", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("planner")
