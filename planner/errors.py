"""What can go wrong, each with the exit code the command line ends with."""


class PlannerError(Exception):
    """Base of every error a user can cause; its text says what, where, and the way out."""

    exit_code = 2


class ModelError(PlannerError):
    """The model cannot be found, read, or built."""


class RecipeError(PlannerError):
    """The recipe cannot be read, or LLM Compressor would refuse it.

    `where` is the path into the file, e.g. `gptq.yaml: modifiers[0].scheme`.
    """

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class JobError(PlannerError):
    """A job option has no sensible meaning (negative samples, an unparsable size, ...)."""


class UnsupportedError(PlannerError):
    """The library can do it, the planner does not model it (yet): never a silent zero."""


class OutputError(PlannerError):
    """The result cannot be written where it was asked to go."""


class MeasureError(PlannerError):
    """A measurement cannot be made here, or a file holds none."""


class RehearseError(PlannerError):
    """A script cannot be rehearsed here, or with this interpreter."""


class UiError(PlannerError):
    """The local web page cannot be served."""


class StoppedError(PlannerError):
    """The job that was being measured did not come to its end; what was measured is kept."""

    def __init__(self, message: str, interrupted: bool = False) -> None:
        super().__init__(message)
        self.exit_code = 130 if interrupted else 1  # 130: what a shell reports for Ctrl-C
