"""What every file of settings has in common: unknown keys are rejected, and a mistake is said with its key."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """A table of a recipe, protocol or challenge: unknown keys are refused, values never change after reading.

    Models are recognised by what their recipe says beside the defaults: a default never changes, and a new setting's
    leaves everything as it was, so that a newer version goes on with an older one's runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(error: ValidationError, what: str = "recipe") -> str:
    """Return pydantic's findings as one clause: `stages.sar2eo.epochs: Input should be ...; ...`.

    What is said of the whole is said of `what`, or stands alone where that is empty.
    """
    parts = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"]) or what
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            message = "there is no such key; check its spelling"
        if finding["type"] == "missing":
            message = "this key is missing"
        parts.append(f"{key}: {message}" if key else message)
    return "; ".join(parts)
