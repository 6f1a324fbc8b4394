"""The Modelfile with which Ollama takes in a GGUF file: its template, its stop tokens, its parameters.

The format is that of https://github.com/ollama/ollama/blob/main/docs/modelfile.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfkit.export.ollama_template import TurnTemplate

MODELFILE = "Modelfile"

# What Ollama would reserve memory for; a longer context can be asked for there.
_LONGEST_CONTEXT = 8192

UNTRANSLATED = (
    "The chat template cannot be said faithfully in Ollama's template language, so the Modelfile has none: Ollama then "
    "takes the template in the GGUF file where it knows it, and otherwise shows the model the bare prompt. Serve the "
    "file with a program that runs the file's own template, such as llama.cpp's server with --jinja."
)


def modelfile(gguf: str, template: TurnTemplate | None, stops: Sequence[str], context: int) -> str:
    """For the GGUF file of that name beside it. Answers are greedy and repetition is not punished, as in hfkit."""
    lines = [f"FROM ./{gguf}"]
    if template is None:
        lines += [f"# {UNTRANSLATED}"]
    else:
        lines += [f'TEMPLATE """{template.in_go()}"""']
    # Nothing is escaped between Ollama's quotation marks.
    lines += [f'PARAMETER stop """{stop}"""' if '"' in stop else f'PARAMETER stop "{stop}"' for stop in stops]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1.0"]
    lines += [f"PARAMETER num_ctx {min(context, _LONGEST_CONTEXT)}"]
    return "\n".join(lines) + "\n"
