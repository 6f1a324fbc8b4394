"""What a recipe could do beyond computing: somebody else's is not let do it unless the user says so."""

from __future__ import annotations

from hfkit.errors import RequestError
from hfkit.recipe import CallableSource, CodeTask, EndpointModel, Recipe, SqlSource


def require_trust(recipe: Recipe, origin: str, *, allow_code: bool) -> None:
    """Raises RequestError where the recipe wants what only a trusted one may, and `allow_code` is False."""
    wanted = wants(recipe)
    if wanted and not allow_code:
        listed = "".join(f"\n  {want}" for want in wanted)
        raise RequestError(
            f"{origin}: nothing was run, since its recipe wants more than to compute; read it, and say --allow-code if "
            f"you trust it:{listed}"
        )


def wants(recipe: Recipe) -> list[str]:
    """Each key by which `recipe` has code run, a database queried, or a server asked, and what that is."""
    found = ["allow_code: may have Python code run"] if recipe.allow_code else []
    if recipe.model is not None and recipe.model.trust_remote_code:
        found.append(f"model.trust_remote_code: runs Python code of {recipe.model.base}")
    if recipe.model is not None and recipe.model.pickled_weights:
        found.append(f"model.pickled_weights: may unpickle the weights of {recipe.model.base}")
    for number, source in enumerate(() if recipe.data is None else recipe.data.sources):
        if isinstance(source, CallableSource):
            found.append(f"data.sources.{number}.callable: runs {source.callable}")
        if isinstance(source, SqlSource):
            found.append(f"data.sources.{number}.sql: has a database run a statement")
    if recipe.evaluate is None:
        return found
    for number, task in enumerate(recipe.evaluate.tasks):
        if isinstance(task, CodeTask):
            found.append(f"evaluate.tasks.{number}.file: runs {task.file}")
    if recipe.evaluate.harness is not None and recipe.evaluate.harness.include_path is not None:
        found.append(
            f"evaluate.harness.include_path: task files in {recipe.evaluate.harness.include_path} may run Python code"
        )
    servers = [model for model in recipe.evaluate.models or () if isinstance(model, EndpointModel)]
    judge = None if recipe.evaluate.judge is None else recipe.evaluate.judge.endpoint
    for key, server in [
        *((f"evaluate.models ({model.name})", model) for model in servers),
        *([] if judge is None else [("evaluate.judge.endpoint", judge)]),
    ]:
        sent = "" if server.key_env is None else f", with the key that the environment has in {server.key_env}"
        found.append(f"{key}: sends the rows to {server.endpoint}{sent}")
    return found
