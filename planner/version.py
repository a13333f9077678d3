"""The version, in the one place where it stands: the package's metadata and `planner --version` read it here."""

__version__ = "0.1.0"
