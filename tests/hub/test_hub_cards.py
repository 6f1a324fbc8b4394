"""The cards: metadata that the Hub takes, and text that says what is known and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import DatasetCard, ModelCard, SpaceCard

from hfkit.artifact import read_artifact
from hfkit.environment import Hardware
from hfkit.hub.dataset_card import dataset_card
from hfkit.hub.energy import energy_sentence, watts
from hfkit.hub.facts import RunFacts, gather_facts
from hfkit.hub.model_card import model_card
from hfkit.recipe import load_recipe
from hfkit.training.metrics_log import METRICS, MetricsLine, append_line
from tests.hub.conftest import evaluation, rewrite_result

if TYPE_CHECKING:
    from hfkit.stage import StageName
    from tests.hub.conftest import Published

STAGES: tuple[StageName, ...] = ("data", "train", "evaluate")


def facts_of(run: Published, *overrides: str, stages: tuple[StageName, ...] = STAGES) -> RunFacts:
    recipe = load_recipe(run.recipe, overrides)
    return gather_facts(recipe, {name: Path("runs") / "tiny" / name for name in stages})


def test_the_model_cards_metadata(run_to_publish: Published) -> None:
    data = ModelCard(model_card(facts_of(run_to_publish, "hub.dataset=ada/rows"))).data
    assert data.base_model == "ada/tiny-model"
    assert data["base_model_relation"] == "adapter"
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert (data.license, data.language, data.datasets) == ("apache-2.0", ["en"], ["ada/rows"])
    assert data.eval_results is not None
    assert [(r.metric_type, r.metric_value, r.dataset_split) for r in data.eval_results] == [("token_f1", 0.7, "test")]
    assert [(r.dataset_type, r.dataset_config) for r in data.eval_results] == [("ada/rows", "examples")]
    merged = ModelCard(model_card(facts_of(run_to_publish, "hub.weights=merged"))).data
    assert (merged["base_model_relation"], merged.library_name) == ("finetune", "transformers")
    for weights, relation in (("adapter", "adapter"), ("merged", "finetune")):
        of_qlora = facts_of(run_to_publish, "model.quantization=nf4", f"hub.weights={weights}")
        assert ModelCard(model_card(of_qlora)).data["base_model_relation"] == relation


def test_results_name_the_data_set_that_they_were_taken_on(run_to_publish: Published) -> None:
    """The recipe's own rows, a data set of the Hub, and a file, which nobody else could find."""
    run_to_publish.rewrite(
        evaluate={
            "tasks": [
                "grounded_answers",
                {"use": "gsm8k", "hub": "openai/gsm8k", "config": "main", "split": "test"},
                {"use": "mmlu", "path": "mmlu.jsonl"},
            ]
        }
    )
    own = evaluation().tasks["grounded_answers"]
    tasks = {"grounded_answers": own, "gsm8k": own.model_copy(update={"groups": 3}), "mmlu": own}
    result = evaluation().model_copy(update={"tasks": tasks})
    rewrite_result(Path("runs") / "tiny" / "evaluate", result.model_dump(mode="json"))
    card = model_card(facts_of(run_to_publish))
    results = ModelCard(card).data.eval_results
    assert results is not None
    assert [(r.dataset_type, r.dataset_name, r.dataset_config, r.dataset_split) for r in results] == [
        ("ada/tiny", "tiny, held-out documents", None, "test"),
        ("openai/gsm8k", "openai/gsm8k", "main", "test"),
    ]
    # Rows from elsewhere say nothing of how many documents were tested.
    assert "documents like the 10 of the test" in card


def test_the_model_card_says_what_a_reader_asks(run_to_publish: Published) -> None:
    card = model_card(facts_of(run_to_publish))
    for said in (
        "A LoRA adapter for [ada/tiny-model](https://huggingface.co/ada/tiny-model)",
        "- `base`: the base model\n- `tuned`: the tuned model\n",
        "\n- rows.jsonl: 40 of 40 rows; ",
        "| method | supervised fine-tuning, LoRA, rank 4, alpha 8 |",
        "+0.300 … +0.700",
        "0.0010",
        "30 examples from 30 documents or groups; 10 examples from 10 other ones were kept out",
        "| time | 90 seconds |",
        "Training took about 2.5 Wh",
        "It was not measured.",
        "It can quote the wrong sentence",
        "`hfkit run recipe.yaml`, with the recipe of this repository",
        "```yaml\nname: tiny\n",
    ):
        assert said in card
    assert card == model_card(facts_of(run_to_publish))


def test_results_are_those_of_the_published_weights_or_it_is_said_whose_they_are(run_to_publish: Published) -> None:
    def said(*overrides: str) -> tuple[bool, str]:
        card = model_card(facts_of(run_to_publish, *overrides))
        return bool(ModelCard(card).data.eval_results), card

    has_results, card = said()
    assert has_results and "Its results " not in card
    has_results, card = said("hub.weights=merged")
    assert has_results and "Its results are those of the adapter beside the base model, before it was added" in card
    has_results, card = said("model.quantization=nf4")
    assert has_results and "Its results were measured with the base model's weights in nf4, as it was trained" in card
    # Nobody measured the weights that these are added into.
    has_results, card = said("model.quantization=nf4", "hub.weights=merged")
    assert not has_results and "the adapter beside the base model's weights in nf4, before" in card
    merged = evaluation()
    task = merged.tasks["grounded_answers"]
    scores = {**task.scores, "merged": task.scores["base"]}
    task = task.model_copy(update={"scores": scores})
    changed = {"models": {**merged.models, "merged": "merged"}, "tasks": {"grounded_answers": task}}
    rewrite_result(Path("runs") / "tiny" / "evaluate", merged.model_copy(update=changed).model_dump(mode="json"))
    card = model_card(facts_of(run_to_publish, "model.quantization=nf4", "hub.weights=merged"))
    (result,) = ModelCard(card).data.eval_results or []
    assert result.metric_value == task.scores["base"]["token_f1"].value and "Its results " not in card


def test_time_is_that_of_all_processes_and_gpus_are_those_that_were_used(run_to_publish: Published) -> None:
    facts = facts_of(run_to_publish)
    line = MetricsLine(split="train", step=8, epoch=2, loss=0.5, tokens=100, seconds=36000.0, memory_bytes=2**30)
    append_line(run_to_publish.run_folder / "train" / METRICS, line)
    hardware = facts.artifacts["train"].environment.hardware.model_copy(update={"gpus": ("NVIDIA H100",) * 8})
    environment = facts.artifacts["train"].environment.model_copy(update={"hardware": hardware})
    artifacts = {**facts.artifacts, "train": facts.artifacts["train"].model_copy(update={"environment": environment})}
    card = model_card(replace(facts, artifacts=artifacts))
    assert "| time | 10" in card and "800 W × 36,000 s" in card
    assert "| hardware | NVIDIA H100 |" in card
    assert "| peak memory of the process, without its GPU's |" in card


def test_snippets_load_what_was_published_and_not_another_branch(run_to_publish: Published) -> None:
    facts = facts_of(run_to_publish, "hub.branch=v2", "hub.dataset=ada/rows")
    assert 'AutoPeftModelForCausalLM.from_pretrained("ada/reader", revision="v2")' in model_card(facts)
    assert 'load_dataset("ada/rows", split="train", revision="v2")' in dataset_card(facts)
    assert 'pipeline("text-generation", model="ada/reader", revision="v3")' in model_card(
        facts_of(run_to_publish, "hub.branch=v2", "hub.tag=v3", "hub.weights=merged")
    )


def test_the_card_says_that_steps_ended_training_before_its_epochs(run_to_publish: Published) -> None:
    assert " or 2 steps, whichever ended first, " in model_card(facts_of(run_to_publish, "train.max_steps=2"))


def test_the_card_of_an_embedded_base_names_it_as_the_hub_does_and_says_where_its_weights_come_from(
    run_to_publish: Published,
) -> None:
    card = model_card(facts_of(run_to_publish, "model.base=embedded:smollm2-135m-instruct", "hub.license=null"))
    data = ModelCard(card).data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data.license == "apache-2.0"
    assert "a 4-bit file (GGUF, Q4_1)" in card


def test_a_model_that_was_not_evaluated_says_so(run_to_publish: Published) -> None:
    card = model_card(
        facts_of(run_to_publish, "evaluate=null", "hub.license=null", "hub.language=[]", stages=STAGES[:2])
    )
    assert "It was not evaluated: nothing is known of how good it is." in card
    assert "No licence is stated" in card
    assert ModelCard(card).data.eval_results is None


def test_the_dataset_card(run_to_publish: Published) -> None:
    card = dataset_card(facts_of(run_to_publish, "hub.dataset=ada/rows"))
    data = DatasetCard(card).data
    assert data["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in data["configs"]] == ["examples", "sequences"]
    assert "30 for training and 10 for testing" in card
    assert "rows.jsonl" in card


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [((), 100), (("NVIDIA H100 80GB HBM3",), 800), (("NVIDIA A100-SXM4-80GB",) * 2, 900), (("unheard of",), 400)],
)
def test_the_energy_estimate_states_what_it_supposes(gpus: tuple[str, ...], expected: int) -> None:
    hardware = Hardware(processor="a CPU", cores=2, threads="2", memory_bytes=2**33, gpus=gpus)
    assert watts(hardware) == expected
    assert f"({expected} W × 3,600 s)" in energy_sentence(3600, hardware)


# The Space's app as it is, but that it answers once instead of serving.
_ASK = """
import os, runpy, sys
os.chdir({place!r})
sys.path.insert(0, {place!r})
import apps.chat, hfkit
from hfkit.assistant import load_assistant
assert hfkit.__file__.startswith({place!r}) and apps.chat.__file__.startswith({place!r})

def serve(recipe):
    assert (recipe.app.host, recipe.app.port) == ("0.0.0.0", 7860)
    with load_assistant(recipe) as assistant:
        print(assistant.retrieve("What holds a ship?")[0].chunk.document_id, assistant.reader_name)
        print("said:", "".join(assistant.reader.stream([{{"role": "user", "content": "What holds a ship?"}}])))

apps.chat.serve = serve
runpy.run_path("app.py", run_name="__main__")
"""


def test_the_spaces_app_runs_from_what_is_in_the_space_alone(
    run_to_publish: Published, documents: Path, tiny_embedder: Path
) -> None:
    files = {str(p.relative_to(tiny_embedder)): p.read_bytes() for p in tiny_embedder.rglob("*") if p.is_file()}
    run_to_publish.hub.create("model", "ada/tiny-embedder").push(files)
    run_to_publish.rewrite(
        rag={"documents": ["docs/"], "embedder": "ada/tiny-embedder", "chunk": {"tokens": 64, "overlap": 8}},
        app={"title": "Harbour", "max_new_tokens": 4},
        hub={"space": "ada/app", "index": True},
    )
    done = run_to_publish()
    assert done.returncode == 0, done.stderr
    assert "index/index.sqlite" in run_to_publish.hub.repositories["model", "ada/reader"].head().files
    space = run_to_publish.hub.repositories["space", "ada/app"]
    assert space.private
    card = SpaceCard(space.head().files["README.md"].content.decode()).data
    assert (card.title, card.sdk, card.app_file, card.models) == (
        "Harbour",
        "gradio",
        "app.py",
        ["ada/reader", "ada/tiny-model"],
    )
    place = run_to_publish.folder / "space"
    for path, blob in space.head().files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(blob.content)
    answer = run_to_publish.python(_ASK.format(place=str(place)))
    assert "docs/" in answer
    assert "tuned by tiny" in answer
    assert "said:" in answer
    artifact = read_artifact(place / "runs" / "tiny" / "train")
    assert artifact is not None
