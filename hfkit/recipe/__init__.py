"""Recipes: what a YAML file may say, and how it is read. Nothing heavy is imported here."""

from hfkit.recipe.app import AppSection
from hfkit.recipe.asked_models import AskedModel, Endpoint, EndpointModel, LoadedModel, OfModel
from hfkit.recipe.data import (
    CallableSource,
    DataSection,
    DataSource,
    FormatName,
    HubSource,
    MixSection,
    PathSource,
    QualitySection,
    ReadSource,
    SourceOptions,
    SplitsSection,
    SqlSource,
    SynthesizeSection,
    SynthesizeSource,
)
from hfkit.recipe.dumping import dump_recipe
from hfkit.recipe.evaluate import AnyGate, EvaluateSection, RetrievalSection
from hfkit.recipe.gates import Gate
from hfkit.recipe.hub import HubSection
from hfkit.recipe.json_schema import recipe_json_schema
from hfkit.recipe.judge import JudgeSection
from hfkit.recipe.loading import ResolvedRecipe, load_recipe, resolve_recipe
from hfkit.recipe.model import AdapterSection, ModelSection
from hfkit.recipe.problems import Location, Problem, RecipeError
from hfkit.recipe.rag import ChunkSection, RagSection, SearchSection
from hfkit.recipe.retrieval_gates import RetrievalGate, RetrievalMetric, RetrievalSetting
from hfkit.recipe.schema import Recipe
from hfkit.recipe.tasks import AnyTask, CodeTask, MetricSection, OwnTask, UsedTask
from hfkit.recipe.train import TrainSection

__all__ = [
    "AdapterSection",
    "AnyGate",
    "AnyTask",
    "AppSection",
    "AskedModel",
    "CallableSource",
    "ChunkSection",
    "CodeTask",
    "DataSection",
    "DataSource",
    "Endpoint",
    "EndpointModel",
    "EvaluateSection",
    "FormatName",
    "Gate",
    "HubSection",
    "HubSource",
    "JudgeSection",
    "LoadedModel",
    "Location",
    "MetricSection",
    "MixSection",
    "ModelSection",
    "OfModel",
    "OwnTask",
    "PathSource",
    "Problem",
    "QualitySection",
    "RagSection",
    "ReadSource",
    "Recipe",
    "RecipeError",
    "ResolvedRecipe",
    "RetrievalGate",
    "RetrievalMetric",
    "RetrievalSection",
    "RetrievalSetting",
    "SearchSection",
    "SourceOptions",
    "SplitsSection",
    "SqlSource",
    "SynthesizeSection",
    "SynthesizeSource",
    "TrainSection",
    "UsedTask",
    "dump_recipe",
    "load_recipe",
    "recipe_json_schema",
    "resolve_recipe",
]
