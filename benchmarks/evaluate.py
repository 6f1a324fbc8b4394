"""Generation for an evaluation beside lm-evaluation-harness: rows a second on this machine, and the same scores.

    python benchmarks/evaluate.py SQUAD-FILE [--rows N] [--turns N] [--quick] [--json]

SmolLM2-135M answers questions of a file in SQuAD's format, such as XQuAD in English (500 of them, evenly spread over
the file), greedily, with up to 32 tokens each: through hfkit's `generate`, and through the harness's `hf` backend
(`HFLM.generate_until`), on the same prompts, in the same precision. hfkit decides itself how many rows it answers
together, as it does by default; the harness must be told, and is told 64, which is what hfkit takes at most on a CPU.
The two take turns, each turn in a process of its own that loads the model and answers a first few rows before the clock
starts; the median of the turns counts. Replies are then scored by SQuAD's token F1. Needs the extra `harness` and the
embedded model in the cache.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from report import Goal, Result, report

from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import Generation, GenerationRow
from hfkit.recipe import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfkit.data.rendering import Renderer

ROWS_AT_ONCE = 64
MAX_NEW_TOKENS = 32
WARM_UP = 4
INSTRUCTION = "Answer the question with a few words from the text."


@dataclass(frozen=True)
class Asked:
    """A question about a paragraph, and its right answers."""

    id: str
    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Turn:
    """What a process did: seconds for all rows, and the replies in their order."""

    seconds: float
    replies: list[str]


def squad_rows(file: Path, count: int) -> list[Asked]:
    """`count` questions, evenly spread; those of one paragraph stand together, as in the file."""
    document = json.loads(file.read_text(encoding="utf-8"))
    rows = [
        Asked(
            asked["id"],
            f"{INSTRUCTION}\n\n{paragraph['context']}\n\nQuestion: {asked['question']}",
            tuple(answer["text"] for answer in asked["answers"]),
        )
        for article in document["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    return [rows[place * len(rows) // count] for place in range(min(count, len(rows)))]


def loaded() -> tuple[PreTrainedModel, Renderer]:
    from hfkit.models.embedded import MODELS, fetch
    from hfkit.models.loading import load_model, load_renderer
    from hfkit.quiet import quiet_libraries

    settings = ModelSection.model_validate({"base": str(fetch(MODELS["smollm2-135m-instruct"]))})
    with quiet_libraries():
        return load_model(settings)[0], load_renderer(settings)


def by_hfkit(rows: list[Asked]) -> Turn:
    from hfkit.evaluation.generation import generate

    model, renderer = loaded()

    def answered(some: list[Asked]) -> list[str]:
        prompts = [[{"role": "user", "content": row.prompt}] for row in some]
        replies = generate(
            model,
            renderer,
            prompts,
            max_new_tokens=MAX_NEW_TOKENS,
            batch_size="auto",
            update=lambda done, total: None,
        )
        return [reply.text if isinstance(reply, Generation) else "" for reply in replies]

    return timed(answered, rows)


def by_harness(rows: list[Asked]) -> Turn:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, renderer = loaded()
    tokenizer = renderer.tokenizer
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=ROWS_AT_ONCE)
    ending = {"until": [tokenizer.eos_token], "max_gen_toks": MAX_NEW_TOKENS, "do_sample": False}

    def answered(some: list[Asked]) -> list[str]:
        requests = []
        for number, row in enumerate(some):
            messages = [{"role": "user", "content": row.prompt}]
            prompt = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
            if harness.tok_encode(prompt) != renderer.prompt_ids(messages):
                raise SystemExit(f"the harness would ask {row.id} in other tokens")
            requests.append(Instance("generate_until", {}, (prompt, dict(ending)), number))
        return [reply.strip() for reply in harness.generate_until(requests, disable_tqdm=True)]

    return timed(answered, rows)


def timed(answered: Callable[[list[Asked]], list[str]], rows: list[Asked]) -> Turn:
    answered(rows[:WARM_UP])
    started = time.perf_counter()
    replies = answered(rows)
    return Turn(time.perf_counter() - started, replies)


def in_a_process(side: Callable[[list[Asked]], Turn], rows: list[Asked]) -> Turn:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(side, rows).result()


def token_f1(rows: list[Asked], replies: list[str]) -> float:
    metric = metric_named("token_f1")
    asked = [GenerationRow(id=row.id, group=row.id, messages=(), references=row.references) for row in rows]
    scored = metric.rows(asked, [Generation(text=reply, stopped=True) for reply in replies])
    return statistics.fmean(numbers[0] for numbers in scored if numbers is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("squad", type=Path, help="questions in SQuAD's format, such as xquad.en.json")
    parser.add_argument("--rows", type=int, default=500, help="how many are asked (default: 500)")
    parser.add_argument("--turns", type=int, default=3, help="how often each side answers them (default: 3)")
    parser.add_argument("--quick", action="store_true", help="8 rows, one turn; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    rows = squad_rows(arguments.squad, 8 if arguments.quick else arguments.rows)
    turns = 1 if arguments.quick else arguments.turns
    sides = {"hfkit": by_hfkit, "lm-evaluation-harness": by_harness}
    done: dict[str, list[Turn]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            done[name].append(in_a_process(side, rows))
            print(f"{name}: {done[name][-1].seconds:.0f} s", file=sys.stderr, flush=True)
    speed = {name: len(rows) / statistics.median(turn.seconds for turn in of) for name, of in done.items()}
    scores = {name: token_f1(rows, of[-1].replies) for name, of in done.items()}
    ours, theirs = (done[name][-1].replies for name in sides)
    same = statistics.fmean(mine == other for mine, other in zip(ours, theirs, strict=True))
    apart = abs(scores["hfkit"] - scores["lm-evaluation-harness"])
    gain = speed["hfkit"] / speed["lm-evaluation-harness"]
    results = [Result(f"{name}, {len(rows)} rows", value, "rows/s", turns) for name, value in speed.items()]
    results += [Result(f"{name}, token F1", value, "", 1) for name, value in scores.items()]
    results.append(Result("replies that are the same, letter by letter", same, "of all"))
    goals = [
        Goal("faster than lm-evaluation-harness", ">= 2 times", gain, gain >= 2),
        Goal("same token F1", "<= 0.005 apart", apart, apart <= 0.005),
    ]
    report("evaluate", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
