"""The Space: an app over the published assistant, with everything it needs in one commit but the base models."""

from __future__ import annotations

from importlib.metadata import requires, version
from pathlib import Path

from hfkit.artifact import MARKER, Artifact, FileRecord, file_sha256, write_artifact, write_whole
from hfkit.data.builtin_templates import BUILTIN
from hfkit.hub.base_revision import trained_revision
from hfkit.hub.facts import TEMPLATE, RunFacts, portable_recipe
from hfkit.hub.files import PlannedFile, files_below
from hfkit.hub.index_database import settled_database
from hfkit.hub.portable import portable_text
from hfkit.hub.weights import trained_files
from hfkit.models.embedded import PREFIX
from hfkit.models.tuned import ADAPTER, MODEL
from hfkit.recipe import Recipe, dump_recipe
from hfkit.run import RECIPE, RUNS
from hfkit.stage import StageName
from rag.index_files import DATABASE

# What runs here is what runs there: the very code that made the assistant, as text.
_PACKAGES = ("hfkit", "rag", "apps")
_CODE = (".py", ".jinja", ".json", ".txt", ".typed")

_APP = '''"""Serves the assistant of this Space: its index, its trained reader, and the recipe that made both."""

from pathlib import Path

from apps.chat import serve
from hfkit.recipe import load_recipe

serve(load_recipe(Path("recipe.yaml"), ["app.host=0.0.0.0", "app.port=7860"]))
'''


def space_files(facts: RunFacts, folder: Path) -> list[PlannedFile]:
    """Card, app, requirements, recipe and code, and the run's index and trained weights where the app looks for them.

    The same run gives the same files.
    """
    recipe = _at_the_commit_of_training(portable_recipe(facts), facts)
    run = f"{RUNS.as_posix()}/{facts.recipe.name}"
    texts = {
        "README.md": _card(facts),
        "app.py": _APP,
        "requirements.txt": _requirements(),
        RECIPE: dump_recipe(recipe),
        f"{run}/train/{RECIPE}": dump_recipe(recipe),
    }
    template = facts.model.chat_template
    if template is not None and not str(template).startswith(BUILTIN):
        texts[TEMPLATE] = template.read_text(encoding="utf-8")
    files, portable = [], portable_text(facts)
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / path, portable(text))
        files.append(PlannedFile(path, folder / path))
    train = f"{run}/train/{ADAPTER if facts.trains_adapter else MODEL}"
    trained = [
        PlannedFile(f"{train}/{file.path}", file.source) for file in trained_files(facts, folder / run / "train")
    ]
    database = settled_database(facts.folders["index"], folder / run / "index")
    index = [PlannedFile(f"{run}/index/{DATABASE}", database)]
    markers = [
        _marker(facts, "train", trained, folder, f"{run}/train/"),
        _marker(facts, "index", index, folder, f"{run}/index/"),
    ]
    return [*files, *trained, *index, *markers, *_code()]


def _at_the_commit_of_training(recipe: Recipe, facts: RunFacts) -> Recipe:
    """A Space starts again whenever it likes, and its base model may have moved on by then."""
    assert recipe.model is not None
    revision = trained_revision(facts)
    if revision is None or not facts.trains_adapter or recipe.model.base.startswith(PREFIX):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": revision})})


def _marker(facts: RunFacts, stage: StageName, files: list[PlannedFile], folder: Path, below: str) -> PlannedFile:
    """The artifact's own record, of the files that there are in the Space."""
    records = tuple(
        FileRecord(path=file.path.removeprefix(below), bytes=file.bytes, mtime_ns=0, sha256=file_sha256(file.source))
        for file in files
    )
    (folder / below).mkdir(parents=True, exist_ok=True)
    recorded = facts.artifacts[stage].model_copy(update={"files": records})
    write_artifact(folder / below, Artifact.model_validate_json(portable_text(facts)(recorded.model_dump_json())))
    return PlannedFile(f"{below}{MARKER}", folder / below / MARKER)


def _code() -> list[PlannedFile]:
    root = Path(__file__).resolve().parent.parent.parent
    return [
        file
        for package in _PACKAGES
        for file in files_below(root / package, f"{package}/", kinds=_CODE)
        if "__pycache__" not in file.path
    ]


def _requirements() -> str:
    """What hfkit itself requires; Gradio comes with the Space."""
    needed = [line for line in requires("hfkit") or [] if "extra ==" not in line and not line.startswith("gradio")]
    return "\n".join([*sorted(needed), f"faiss-cpu=={version('faiss-cpu')}"]) + "\n"


def _card(facts: RunFacts) -> str:
    from huggingface_hub import SpaceCardData

    title = "Ask the documents" if facts.recipe.app is None else facts.recipe.app.title
    metadata = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version="3.11",
        app_file="app.py",
        license=facts.hub.license,
        models=[name for name in (facts.hub.repo, facts.base_id) if name is not None],
        datasets=[facts.hub.dataset] if facts.hub.dataset else None,
        pinned=False,
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {title}",
        f"Ask a question: the app looks for passages in the indexed documents, and "
        f"[{facts.hub.repo}](https://huggingface.co/{facts.hub.repo}) answers from them, quotes and cites. Beside each "
        "answer stand the passages that it comes from; believe these before you believe the answer.",
        "Everything is in this repository but the base models, which are fetched when the Space starts: the index and "
        f"the trained weights in `runs/{facts.recipe.name}/`, the recipe, and the code of hfkit that made them. It "
        "runs on the free hardware for small models; larger ones want a GPU.",
        "On a machine of your own: install what `requirements.txt` says and `gradio`, then `python app.py`.",
    ]
    return "\n\n".join(parts) + "\n"
