"""What sections of a recipe need of each other."""

from collections.abc import Mapping, Sequence

from hfkit.recipe.problems import KeyPath

NEEDS: dict[str, tuple[str, ...]] = {
    "train": ("model", "data"),
    "app": ("model", "rag"),
    "hub": ("model", "data", "train"),
}

NEEDS_OF_TASKS: dict[str, tuple[str, ...]] = {
    "grounded_answers": ("model", "data"),
    "conversations": ("model", "data"),
    "retrieval": ("rag",),
}

_TRAINED = ("tuned", "merged", "checkpoint")


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
    broken += _of_model(recipe.get("model"), recipe.get("train"), recipe.get("allow_code"))
    broken += _of_merging(recipe.get("model"), recipe.get("hub"))
    if "rag" not in present:
        broken.extend(
            (("hub", key), "needs the section rag, whose index it publishes and which is not in this recipe")
            for key in _published_with_index(recipe.get("hub"))
        )
        broken.extend(
            (
                ("data", "sources", position, "synthesize"),
                "needs the section rag, whose documents it writes about and which is not in this recipe",
            )
            for position in _synthesized(recipe.get("data"))
        )
    return broken


def _of_model(model: object, train: object, allow_code: object) -> list[tuple[KeyPath, str]]:
    """What keys of the model need of others."""
    broken: list[tuple[KeyPath, str]] = []
    if not isinstance(model, Mapping):
        return broken
    if model.get("trust_remote_code") is True and allow_code is not True:
        broken.append((("model", "trust_remote_code"), "runs code of the model's; it needs allow_code: true"))
    no_adapter = "adapter" in model and model["adapter"] is None
    if model.get("trust_remote_code") is True and no_adapter and isinstance(train, Mapping):
        text = "all weights of a model with code of its own cannot be trained: what is saved would be a folder, whose "
        text += "code no commit pins; train an adapter (model.adapter)"
        broken.append((("model", "trust_remote_code"), text))
    if no_adapter and isinstance(train, Mapping) and train.get("lora_plus_ratio") is not None:
        text = "sets the learning rates of an adapter, and model.adapter is null; leave one of them out"
        broken.append((("train", "lora_plus_ratio"), text))
    return broken


def _of_merging(model: object, hub: object) -> list[tuple[KeyPath, str]]:
    """What publishing merged weights needs of the model."""
    if not (isinstance(model, Mapping) and isinstance(hub, Mapping)):
        return []
    if model.get("trust_remote_code") is not True or hub.get("weights") != "merged":
        return []
    text = "an adapter is not merged into a model with code of its own, whose code no commit would pin; publish adapter"
    return [(("hub", "weights"), text)]


def _needed_by_tasks(evaluate: object) -> tuple[str, ...]:
    """What the tasks and the models of `evaluate` need, each once."""
    if not isinstance(evaluate, Mapping):
        return ()
    needed: list[str] = []
    for task in _entries(evaluate.get("tasks")):
        needed += NEEDS_OF_TASKS.get(task, ()) if isinstance(task, str) else ("model",)
    if evaluate.get("harness") is not None:
        needed.append("model")
    models = _entries(evaluate.get("models"))
    if models and all(isinstance(model, Mapping) and "endpoint" in model for model in models):
        # Nothing is loaded.
        needed = [section for section in needed if section != "model"]
    if any(_is_trained(model) for model in models):
        needed += ("model", "data", "train")
    return tuple(dict.fromkeys(needed))


def _is_trained(model: object) -> bool:
    label = model.get("of") if isinstance(model, Mapping) else model
    return isinstance(label, str) and label.startswith(_TRAINED)


def _entries(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _published_with_index(hub: object) -> list[str]:
    """Keys of `hub` that publish the index."""
    return [key for key in ("index", "space") if isinstance(hub, Mapping) and hub.get(key)]


def _synthesized(data: object) -> list[int]:
    """Positions of the sources that are written from documents."""
    sources = data.get("sources") if isinstance(data, Mapping) else None
    if not isinstance(sources, Sequence) or isinstance(sources, str):
        return []
    return [at for at, source in enumerate(sources) if isinstance(source, Mapping) and "synthesize" in source]
