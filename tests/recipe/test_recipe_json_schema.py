"""The JSON Schema that editors read."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfkit.recipe import Gate, Recipe, RetrievalGate, load_recipe, recipe_json_schema

SCHEMA = recipe_json_schema()


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema of a mapping with keys."""
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict) and "type" in node:
            yield node
        for value in node.values():
            yield from objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects(value)


def test_head() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "hfkit recipe"
    assert SCHEMA["type"] == "object"
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert set(SCHEMA["properties"]) == {"extends", *Recipe.model_fields}


def test_every_mapping_is_closed_and_every_key_is_described() -> None:
    found = list(objects(SCHEMA))
    assert len(found) > 12
    for schema in found:
        assert schema["additionalProperties"] is False, schema["title"]
        for key, value in schema["properties"].items():
            assert len(value["description"]) > 15, (schema["title"], key)
            assert value["description"].endswith("."), (schema["title"], key)


def test_references_lead_somewhere() -> None:
    for name in re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(SCHEMA)):
        assert name in SCHEMA["$defs"]


def test_what_a_file_may_leave_to_the_one_it_extends() -> None:
    assert "required" not in SCHEMA
    assert SCHEMA["if"] == {"required": ["extends"]}
    assert SCHEMA["else"] == {
        "required": ["name"],
        "properties": {
            "model": {"required": ["base"]},
            "data": {"required": ["sources"]},
            "hub": {"required": ["repo"]},
            "rag": {"required": ["documents"]},
        },
    }
    for section in ("ModelSection", "DataSection", "EvaluateSection", "RagSection"):
        assert "required" not in SCHEMA["$defs"][section]
    # A list is replaced as a whole, so its items are complete in any file.
    assert SCHEMA["$defs"]["PathSource"]["required"] == ["path"]


def test_bounds_defaults_and_words() -> None:
    train = SCHEMA["$defs"]["TrainSection"]["properties"]
    assert train["schedule"]["enum"] == ["linear", "cosine", "constant", "inverse_sqrt", "wsd"]
    assert train["epochs"]["exclusiveMinimum"] == 0 and train["epochs"]["default"] == 1.0
    assert SCHEMA["$defs"]["SearchSection"]["properties"]["top_k"]["maximum"] == 50
    sources = SCHEMA["$defs"]["DataSection"]["properties"]["sources"]
    assert sources["minItems"] == 1
    assert {one["$ref"] for one in sources["items"]["oneOf"]} == {
        f"#/$defs/{kind}Source" for kind in ("Path", "Hub", "Sql", "Callable", "Synthesize")
    }


def test_gates_are_text_with_a_pattern_that_editors_can_run(folder: Path) -> None:
    items = SCHEMA["$defs"]["EvaluateSection"]["properties"]["gates"]["items"]
    assert items["type"] == "string" and "?P<" not in items["pattern"]
    grounded, retrieval = items["examples"]
    assert re.match(items["pattern"], grounded) and Gate.parse(grounded)
    assert re.match(items["pattern"], retrieval) and RetrievalGate.parse(retrieval)
    assert not re.match(items["pattern"], "tuned is better")
    assert not re.match(items["pattern"], "retrieval is better")


def test_the_schema_of_a_recipe_is_reached_by_its_own_keys(folder: Path) -> None:
    (folder / "x.yaml").write_text("name: x\n")
    assert set(load_recipe(Path("x.yaml")).model_dump()) == set(SCHEMA["properties"]) - {"extends"}
