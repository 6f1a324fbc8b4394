"""The command line, `hfkit VERB …`: parses, calls the verb, and turns a failure into a sentence and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hfkit import __version__
from hfkit.failures import explain
from hfkit.noticeboard import speaks_to_user
from hfkit.output import say

EXIT_CODES = "exit codes: 0 done; 1 the work failed or a gate was not met; 2 the request was wrong"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hfkit",
        description="One recipe from documents and examples to a tuned, evaluated, retrieval-augmented assistant.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"hfkit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, help_text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help_text, description=help_text, epilog=EXIT_CODES)
        added.set_defaults(module=f"hfkit.verbs.{name}")
        added.add_argument("--debug", action="store_true", help="show a traceback where something fails")
        return added

    def with_recipe(added: argparse.ArgumentParser, what: str = "RECIPE") -> argparse.ArgumentParser:
        added.add_argument("recipe", type=Path, metavar=what, help="the recipe, a YAML file")
        added.add_argument("overrides", nargs="*", metavar="key=value", help="set a key, such as train.epochs=2")
        return added

    def with_json(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--json", action="store_true", help="print one JSON document on standard output")
        return added

    with_json(with_recipe(verb("run", "run every stage that the recipe names, those whose inputs changed")))
    check = with_json(with_recipe(verb("check", "find in seconds what would go wrong, without loading weights")))
    check.add_argument("--gpus", type=int, metavar="N", help="plan the memory of N GPUs, not of this machine")
    check.add_argument("--gpu-memory", type=float, metavar="GIB", help="of each of them (default: 80)")
    check.add_argument("--sharding", choices=("ddp", "zero2", "zero3", "fsdp2"), help="how they share (default: ddp)")
    preview = with_json(with_recipe(verb("preview", "show the exact tokens that the model is trained on")))
    preview.add_argument("-n", type=int, default=2, metavar="N", help="sequences to show (default: 2)")
    index = with_json(
        with_recipe(verb("index", "index the recipe's documents, or see whether an index is whole"), "RECIPE-OR-INDEX")
    )
    mending = index.add_mutually_exclusive_group()
    mending.add_argument("--verify", action="store_true", help="read all of the index and say what is damaged")
    mending.add_argument("--repair", action="store_true", help="rebuild what is derived, leave out what is damaged")
    for stage, help_text in (
        ("data", "prepare the training data"),
        ("train", "train the model"),
        ("evaluate", "compare the tuned model with the base model"),
    ):
        added = with_json(with_recipe(verb(stage, help_text + ", and what must be done before")))
        if stage == "train":
            launched = "through `accelerate launch` with accelerate_configs/NAME.yaml, or a path"
            added.add_argument("--launch", metavar="NAME", help=launched)
            added.add_argument("--processes", type=int, metavar="N", help="with --launch: how many, on all machines")
        else:
            added.set_defaults(module="hfkit.verbs.run")
    publish = with_json(
        with_recipe(verb("publish", "publish the trained model on the Hub, and do what must be done before"))
    )
    publish.add_argument("--dry-run", action="store_true", help="list every file and show the card; nothing is sent")
    export = with_json(with_recipe(verb("export", "write a finished run's model for other programs")))
    formats = "merged weights, a GGUF file with a Modelfile, or the embedder as ONNX (default: safetensors)"
    export.add_argument("--format", choices=("safetensors", "gguf", "onnx"), default="safetensors", help=formats)
    export.add_argument("--type", choices=("f16", "q8_0", "q4_0"), help="of the GGUF file's weights (default: f16)")
    export.add_argument("--to", type=Path, metavar="FOLDER", help="where to (default: export/ in the run's folder)")
    compare = with_json(verb("compare", "line up finished runs: recipes, data, cost, and scores row by row"))
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or its recipe")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page, too")
    reproduce = with_json(verb("reproduce", "make a finished or published run again, and compare what comes out"))
    reproduce.add_argument("run", metavar="HUB-ID-OR-RUN", help="a published model, or a run's folder or recipe")
    reproduce.add_argument("overrides", nargs="*", metavar="key=value", help="set a key, such as model.base=FOLDER")
    reproduce.add_argument("--to", metavar="NAME", help="the name of the new run (default: NAME-again)")
    reproduce.add_argument("--revision", metavar="REV", help="branch, tag or commit of the published model")
    reproduce.add_argument("--check-only", action="store_true", help="say what differs here; nothing is run")
    trusted = "let its recipe run Python code, query a database, ask a server"
    reproduce.add_argument("--allow-code", action="store_true", help=trusted)
    search = with_json(verb("search", "print the passages that fit a question, best first"))
    search.add_argument("index", type=Path, metavar="INDEX", help="an index folder, such as runs/quickstart/index")
    search.add_argument("query", metavar="QUERY", help="what to look for")
    search.add_argument("-k", type=int, default=5, metavar="K", help="passages to print (default: 5)")
    search.add_argument("--mode", choices=("hybrid", "dense", "lexical"), default="hybrid", help="default: hybrid")
    search.add_argument("--filter", metavar="YAML", help="which documents: 'author: Ada' or '{year: {gte: 2020}}'")
    search.add_argument("--per-document", type=int, metavar="N", help="print at most N passages of one document")
    search.add_argument("--neighbours", type=int, default=0, metavar="N", help="show N chunks before and after as well")
    search.add_argument("--rerank", metavar="MODEL", help="a CrossEncoder that ranks the best passages anew")
    ask = with_json(verb("ask", "answer a question from the documents, with citations"))
    ask.add_argument("recipe", type=Path, metavar="RECIPE", help="the recipe, a YAML file")
    ask.add_argument("question", metavar="QUESTION", help="the question")
    ask.add_argument("overrides", nargs="*", metavar="key=value", help="set a key, such as rag.search.top_k=3")
    with_recipe(verb("app", "serve the Gradio app over what the recipe's run made"))
    verb("schema", "print the JSON Schema of recipes, for editors")
    with_json(verb("doctor", "say what this machine can do, and what is amiss with the installation"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    parsed = _parse(arguments)
    # Without any handler Python prints the libraries' warnings to standard error; a run's log is where they belong.
    logging.getLogger().addHandler(logging.NullHandler())
    signal.signal(signal.SIGTERM, _interrupt)
    # GNU OpenMP's threads spin 300,000 times while they wait, which slows training down tenfold as soon as anything
    # else wants a core: a browser is enough. Spinning less costs nothing alone. To be set before PyTorch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        code: int = import_module(parsed.module).run(parsed)
    except KeyboardInterrupt:
        if speaks_to_user():
            say("hfkit: interrupted; what was finished is kept, the same command goes on from there")
        return 1
    # The one place where everything is caught: a user reads a sentence, --debug shows the traceback.
    except Exception as error:
        if parsed.debug:
            raise
        explanation = explain(error)
        if speaks_to_user():
            say(f"hfkit: {explanation.text}")
        return explanation.exit_code
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes no more of the overrides once an option stood between them, so what it leaves is added here."""
    parser = build_parser()
    parsed, left = parser.parse_known_args(arguments)
    unknown = [argument for argument in left if argument.startswith("-") or "=" not in argument]
    if unknown or (left and "overrides" not in parsed):
        parser.error(f"unrecognized arguments: {' '.join(unknown or left)}")
    if left:
        parsed.overrides += left
    return parsed


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
