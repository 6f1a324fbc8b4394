"""`hub`: what is published on the Hugging Face Hub, and where."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hfkit.recipe.section import Expected, Section, Text, broken_rule

# At most 96 characters of letters, digits, - _ . a part, as huggingface_hub checks it.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"

RepoId = Annotated[
    str,
    Field(pattern=rf"^{_PART}/{_PART}$"),
    Expected("a Hub id of the form owner/name", "Hub ids of the form owner/name"),
]

Refusal = Literal["gates", "secrets", "unknown_commits"]


class HubSection(Section):
    """What is published: the trained weights with card, recipe, manifest and results; also data, index and a Space."""

    repo: RepoId = Field(description="The model repository, owner/name; it is created where there is none.")
    private: bool = Field(
        default=True, description="Whether repositories are created private; true never publishes to a public one."
    )
    branch: Text | None = Field(
        default=None,
        description="Branch of the model and dataset repositories that is published to; it is created where there is "
        "none. null takes main.",
    )
    tag: Text | None = Field(
        default=None, description="Tag that the published commit of the model and dataset repositories gets."
    )
    weights: Literal["adapter", "merged"] = Field(
        default="adapter",
        description="Whether the adapter is published as it is, or added into the base model's weights. Runs that "
        "train all weights publish these.",
    )
    base_model: RepoId | None = Field(
        default=None,
        description="Hub id of the base model, where model.base is a folder: an adapter names it, so that others can "
        "load it.",
    )
    license: Text | None = Field(
        default=None,
        description="Licence of what is published, such as apache-2.0; null takes that of an embedded base model.",
    )
    language: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(), description="Languages of the training data as ISO 639 codes, such as [en, de]."
    )
    dataset: RepoId | None = Field(
        default=None, description="Dataset repository that the prepared data is published to; null does not publish it."
    )
    index: bool = Field(
        default=False,
        description="Whether the index, which holds the documents' text, is published with the model, in index/.",
    )
    space: RepoId | None = Field(
        default=None,
        description="Space that runs the recipe's app over the published weights and index; null publishes none.",
    )
    despite: Annotated[tuple[Refusal, ...], Field(strict=False)] = Field(
        default=(),
        description="What publishing is not refused for: gates (that were not met), secrets (what looks like one), "
        "unknown_commits (of somebody else in the repository).",
    )

    @model_validator(mode="after")
    def _names_are_the_hubs(self) -> "HubSection":
        for key, name in (("repo", self.repo), ("dataset", self.dataset), ("space", self.space)):
            if name is not None and ("--" in name or ".." in name or name.endswith(".git")):
                raise broken_rule(key, f"{name}: the Hub allows no -- and no .. in a name, and no .git at its end")
            if name is not None and any(len(part) > 96 for part in name.split("/")):
                raise broken_rule(key, f"{name}: the Hub allows at most 96 characters")
        return self
