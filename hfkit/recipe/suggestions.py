"""What the user may have meant by a key or a word that a recipe does not know."""

from collections.abc import Sequence
from difflib import get_close_matches

from hfkit.recipe.expected import Shape, all_keys
from hfkit.recipe.problems import KeyPath, dotted

# What other kits call what these keys do.
FAMILIAR: dict[str, str] = {
    "gradient_accumulation_steps": "train.micro_batch_size",
    "learning_rate_scheduler": "train.schedule",
    "logging_steps": "train.log_steps",
    "lora": "model.adapter",
    "lora_alpha": "model.adapter.alpha",
    "lora_dropout": "model.adapter.dropout",
    "lora_r": "model.adapter.rank",
    "lr": "train.learning_rate",
    "lr_scheduler_type": "train.schedule",
    "max_seq_length": "data.max_length",
    "model_name_or_path": "model.base",
    "num_train_epochs": "train.epochs",
    "output_dir": "name",
    "peft": "model.adapter",
    "per_device_train_batch_size": "train.micro_batch_size",
    "r": "model.adapter.rank",
    "target_modules": "model.adapter.targets",
    "warmup_ratio": "train.warmup",
}


def unknown_key(recipe: Shape, around: Shape, path: KeyPath) -> str:
    """The message for the key at `path`, which the mapping `around` it does not have."""
    name = str(path[-1])
    here = get_close_matches(name.lower(), around.keys, n=1, cutoff=0.7)
    known = all_keys(recipe)
    if here:
        return f"unknown key; did you mean {here[0]}?"
    elsewhere = [dotted(key) for key in known if key[-1] == name]
    if not elsewhere and name in FAMILIAR:
        elsewhere = [FAMILIAR[name]]
    if not elsewhere:
        near = get_close_matches(name.lower(), [str(key[-1]) for key in known], n=1, cutoff=0.8)
        elsewhere = [dotted(key) for key in known if near and key[-1] == near[0]]
    if elsewhere:
        return f"unknown key; did you mean {' or '.join(_seen_from(dotted(path[:-1]), key) for key in elsewhere)}?"
    if around.variants > 1:
        return f"unknown key; what stands here is {around.phrase}"
    return f"unknown key; the keys here are {', '.join(around.keys)}"


def _seen_from(section: str, key: str) -> str:
    """`key` as it is named inside `section`: in short where it belongs there."""
    if section and "." not in key:
        return f"{key} at the top of the file"
    return key.removeprefix(f"{section}.")


def nearest_word(word: str, words: Sequence[str]) -> str:
    """`; did you mean X?` for the word that is nearest, or nothing."""
    if word.lower() == "none" and "null" in words:
        return "; did you mean null?"
    near = get_close_matches(word.lower(), words, n=1)
    return f"; did you mean {near[0]}?" if near else ""
