"""Calls of tools and the schemas of tools, in the ways that datasets write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from hfkit.data.conversation import ToolCall, ToolFunction
from hfkit.data.formats.values import check_json, is_list, parsed, read_json, refuse
from hfkit.data.ledger import RowFault

_FAULT = "a tool call that cannot be read"


def tool_calls_in(value: Any, where: str) -> tuple[ToolCall, ...]:
    """The calls of one turn: a list of them or a single one, as objects or as JSON text."""
    calls = parsed(value, where)
    if calls is None:
        return ()
    if isinstance(calls, Mapping):
        calls = [calls]
    if not is_list(calls):
        refuse(_FAULT, value, where)
    return tuple(_tool_call(call, f"{where}.{number}") for number, call in enumerate(calls))


def _tool_call(value: Any, where: str) -> ToolCall:
    if not isinstance(value, Mapping):
        refuse(_FAULT, value, where)
    kind = value.get("type")
    if kind is not None and kind != "function":
        refuse("a tool call that is not of a function", kind, f"{where}.type")
    # Both {"id", "type", "function": {"name", "arguments"}} and the bare {"name", "arguments"} are in use.
    function = value.get("function", value)
    if not isinstance(function, Mapping):
        refuse(_FAULT, function, f"{where}.function")
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        refuse("a tool call without a name", name, f"{where}.name")
    key = next((key for key in ("arguments", "parameters") if function.get(key) is not None), "arguments")
    call_id = value.get("id")
    if call_id is not None and not isinstance(call_id, str):
        refuse(_FAULT, call_id, f"{where}.id")
    read = {"id", "type", "function"} if function is not value else {"id", "type", "name", key}
    _nothing_else(value, read, where)
    if function is not value:
        _nothing_else(function, {"name", key}, f"{where}.function")
    arguments = _arguments(function.get(key), f"{where}.{key}")
    return ToolCall(id=call_id, function=ToolFunction(name=name, arguments=arguments))


def _nothing_else(value: Mapping[str, Any], read: set[str], where: str) -> None:
    for key in value.keys() - read - {"index"}:
        if value[key] not in (None, "", [], {}):
            raise RowFault("a tool call with a key that is not known", f"{where}.{key}")


def _arguments(value: Any, where: str) -> Mapping[str, JsonValue]:
    arguments = value
    if isinstance(value, str):
        arguments = read_json(value, where) if value.strip() else {}
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        refuse("tool call arguments that are not an object", arguments, where)
    check_json(arguments, where)
    return arguments


def tools_in(value: Any, where: str) -> tuple[dict[str, JsonValue], ...]:
    """The functions that may be called, each as `{"type": "function", "function": {...}}`: what chat templates take.

    A list of schemas, one schema, or the JSON text of either; schemas without the wrapping object get it.
    """
    tools = parsed(value, where)
    if tools is None or (isinstance(tools, str) and not tools.strip()):
        return ()
    if isinstance(tools, Mapping):
        tools = [tools]
    if not is_list(tools):
        refuse("tools that cannot be read", value, where)
    return tuple(_schema(parsed(tool, f"{where}.{number}"), f"{where}.{number}") for number, tool in enumerate(tools))


def _schema(tool: Any, where: str) -> dict[str, JsonValue]:
    if not isinstance(tool, Mapping):
        refuse("tools that cannot be read", tool, where)
    check_json(tool, where)
    if isinstance(tool.get("function"), Mapping) and _named(tool["function"]):
        return {str(key): value for key, value in tool.items()}
    if _named(tool):
        bare: dict[str, JsonValue] = {str(key): value for key, value in tool.items() if key != "type"}
        return {"type": "function", "function": bare}
    raise RowFault("a tool without a name", where)


def _named(function: Mapping[str, Any]) -> bool:
    name = function.get("name")
    return isinstance(name, str) and bool(name.strip())
