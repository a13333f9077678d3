"""What every record that is written as JSON has in common."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record; a field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
