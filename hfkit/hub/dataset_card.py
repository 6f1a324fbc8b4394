"""The card of the published prepared data."""

from __future__ import annotations

from hfkit.data.card import card_text
from hfkit.hub.facts import RunFacts

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = "1M<n<10M"


def dataset_card(facts: RunFacts) -> str:
    """README.md of the dataset repository: what the rows are, how to load them, and where they come from."""
    from huggingface_hub import DatasetCardData

    data, id = facts.data, facts.hub.dataset
    rows = data.train.rows + data.test.rows
    metadata = DatasetCardData(
        language=list(facts.hub.language) or None,
        license=facts.hub.license,
        size_categories=[next((size for below, size in _SIZES if rows < below), _LARGER)],
        task_categories=["text-generation"],
        pretty_name=f"Training data of {facts.recipe.name}",
        configs=[_config(name, facts) for name in ("examples", "sequences") if _sides(name, facts)],
    )
    assert id is not None
    at = "" if facts.revision is None else f', revision="{facts.revision}"'
    intro = (
        f"The examples on which [{facts.hub.repo}](https://huggingface.co/{facts.hub.repo}) was trained and tested: "
        f"{data.train.rows:,} for training and {data.test.rows:,} for testing. No document gives rows to both sides."
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# Training data of {facts.recipe.name}",
        intro,
        "## How to load it",
        "```python\nfrom datasets import load_dataset\nimport json\n\n"
        f'rows = load_dataset("{id}", split="train"{at})\nexample = json.loads(rows[0]["example"])\n```',
        "`example` is the whole example as JSON: the messages, and what a metric needs to score a reply to them. `id` "
        "names the row, `document` the document or group that it comes from, `kind` its shape.",
    ]
    if _sides("sequences", facts):
        parts.append(
            f'`load_dataset("{id}", "sequences"{at})` gives the very tokens of the base model\'s tokenizer that the '
            "model saw; `spans` are the trained positions as start and end, start and end, the ends excluded."
        )
    # The stage's own card follows without its title.
    parts.append(card_text(data, facts.recipe.name, plotted=False).split("\n", 1)[1].strip())
    if facts.hub.license is None:
        parts += ["## Licence", "None is stated; the sources' own hold. Ask the owner before you use it."]
    return "\n\n".join(parts) + "\n"


def _config(name: str, facts: RunFacts) -> dict[str, object]:
    files = [{"split": side, "path": f"{name}/{side}-*.parquet"} for side in _sides(name, facts)]
    return {"config_name": name, "data_files": files} | ({"default": True} if name == "examples" else {})


def _sides(name: str, facts: RunFacts) -> list[str]:
    """The splits that there are files for."""
    return [side for side in ("train", "test") if any((facts.folders["data"] / name).glob(f"{side}-*.parquet"))]
