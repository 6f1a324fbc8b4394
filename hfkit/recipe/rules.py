"""What sections of a recipe need of each other."""

from collections.abc import Mapping, Sequence

from hfkit.recipe.problems import KeyPath

NEEDS: dict[str, tuple[str, ...]] = {
    "train": ("model", "data"),
    "app": ("model", "rag"),
}

NEEDS_OF_TASKS: dict[str, tuple[str, ...]] = {
    "grounded_answers": ("model", "train", "data"),
    "retrieval": ("rag",),
}


def broken_rules(recipe: Mapping[str, object]) -> list[tuple[KeyPath, str]]:
    """Each rule that `recipe` breaks: the key at fault, and what to say about it.

    `recipe` is plain data, and may be wrong in any other way: what can be known of it is judged.
    """
    present = {key for key, value in recipe.items() if value is not None}
    broken: list[tuple[KeyPath, str]] = []
    for section, needed in {**NEEDS, "evaluate": _needed_by_tasks(recipe.get("evaluate"))}.items():
        absent = [other for other in needed if other not in present]
        if section in present and absent:
            noun = "section" if len(absent) == 1 else "sections"
            verb = "is" if len(absent) == 1 else "are"
            broken.append(((section,), f"needs the {noun} {' and '.join(absent)}, which {verb} not in this recipe"))
    if "rag" not in present:
        broken.extend(
            (
                ("data", "sources", position, "synthesize"),
                "needs the section rag, whose documents it writes about and which is not in this recipe",
            )
            for position in _synthesized(recipe.get("data"))
        )
    return broken


def _needed_by_tasks(evaluate: object) -> tuple[str, ...]:
    """What the tasks of `evaluate` need, each once."""
    tasks = evaluate.get("tasks") if isinstance(evaluate, Mapping) else None
    if not isinstance(tasks, Sequence) or isinstance(tasks, str):
        return ()
    named = [task for task in tasks if isinstance(task, str)]
    return tuple(dict.fromkeys(section for task in named for section in NEEDS_OF_TASKS.get(task, ())))


def _synthesized(data: object) -> list[int]:
    """Positions of the sources that are written from documents."""
    sources = data.get("sources") if isinstance(data, Mapping) else None
    if not isinstance(sources, Sequence) or isinstance(sources, str):
        return []
    return [at for at, source in enumerate(sources) if isinstance(source, Mapping) and "synthesize" in source]
