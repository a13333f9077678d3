"""The fixture that the tests of models share."""

from tests.models.tiny import tiny  # noqa: F401 - found here by its name
