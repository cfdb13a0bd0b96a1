"""Parameters whose text stays text: only other types are worth loading Typer's validation for."""

from __future__ import annotations

from typing import Any


class FastStart:
    """A command or group whose parameters take text, and nothing, as they are.

    Typer hands every value to pydantic, whose import takes longer than most commands.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, those of Typer's own making included."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "_runtime_param", parameter) is None:
                parameter._runtime_param = _KeepText()  # noqa: SLF001  # Typer has no other place for it
        return parameters


class _KeepText:
    """Stands where a parameter has its coercion, until a value comes that needs Typer's own."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        descriptor = param.type_descriptor
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if descriptor.annotation is str and descriptor.parameter_info.parser is None and type(value) is str:
            return value
        param._runtime_param = None  # noqa: SLF001
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)
