"""`hfkit train`: the train stage and what it needs, in this process or, with `--launch`, in those of a launcher."""

from __future__ import annotations

import argparse

from hfkit.errors import RequestError
from hfkit.launching import launch_command
from hfkit.output import say
from hfkit.preflight import require_ready
from hfkit.recipe import load_recipe
from hfkit.verbs import run as run_verb


def run(arguments: argparse.Namespace) -> int:
    if arguments.launch is None:
        if arguments.processes is not None:
            raise RequestError("--processes: say how they are launched with --launch, such as `--launch ddp`")
        return run_verb.run(arguments)
    # What is wrong with the request is told here, once, and with its own exit code, which no launcher passes on.
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    require_ready(recipe, run_verb.wanted_by("train", recipe))
    options = [f"--{name}" for name in ("json", "debug") if vars(arguments)[name]]
    verb = ["train", str(arguments.recipe), *arguments.overrides, *options]
    command = launch_command(arguments.launch, arguments.processes, verb)
    say(f"hfkit: {command}")
    return command.run()
