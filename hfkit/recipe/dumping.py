"""A recipe as YAML again, with every default written out."""

import yaml

from hfkit.recipe.schema import Recipe
from hfkit.recipe.yaml_rules import RecipeDumper


def dump_recipe(recipe: Recipe) -> str:
    """YAML that loads to an equal recipe; sections that the recipe does not have are left out."""
    # Null means something inside a section (no adapter, no limit), so only whole sections are dropped.
    value = {key: held for key, held in recipe.model_dump(mode="json").items() if held is not None}
    text: str = yaml.dump(value, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=1000)
    return text
