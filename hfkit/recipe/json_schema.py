"""The recipe's JSON Schema, from which editors complete and check recipes."""

from typing import Any

from hfkit.recipe.expected import section_class
from hfkit.recipe.schema import Recipe


def recipe_json_schema() -> dict[str, Any]:
    """A schema (draft 2020-12) of a recipe file, as plain data.

    A file that says `extends` may leave required keys to the file it extends; every other file must have them.
    """
    schema = Recipe.model_json_schema()
    properties = schema.pop("properties")
    definitions = schema.pop("$defs")
    required_in: dict[str, dict[str, list[str]]] = {}
    for key, field in Recipe.model_fields.items():
        section = section_class(field.annotation)
        if section is not None:
            required = definitions[section.__name__].pop("required", None)
            if required:
                required_in[key] = {"required": required}
    extends = {
        "type": "string",
        "minLength": 1,
        "title": "Extends",
        "description": "Another recipe, relative to this file, whose keys hold wherever this file does not set them.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hfkit recipe",
        "description": schema["description"],
        "type": "object",
        "properties": {"extends": extends, **properties},
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "else": {"required": schema["required"], "properties": required_in},
        "$defs": definitions,
    }
