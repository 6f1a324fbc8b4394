"""The Modelfile: a template that Ollama renders as the tokenizer's own does, or none and a word about it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hfkit.data.builtin_templates import builtin_template
from hfkit.export.modelfile import UNTRANSLATED, modelfile
from hfkit.export.ollama_template import turn_template
from rag.answer import Message

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMS = SMOLLM2.replace("message['content']", "message['content'] | trim")
THOUGHTS_LEFT_OUT = SMOLLM2.replace("message['content']", "message['content'].split('</think>')[-1]")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + SMOLLM2
LAST_ONLY = SMOLLM2.replace("{% for message in messages %}", "{% for message in messages[-1:] %}")
BROKEN = "{% for %}"

CONVERSATIONS: list[list[Message]] = [
    [{"role": "user", "content": "Hi\n"}],
    [{"role": "system", "content": ' "Be" `brief`. '}, {"role": "user", "content": "{{ .Role }} \\n <b>"}],
    [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "zwei"},
        {"role": "user", "content": "三\t3"},
    ],
]


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_template_of_turns_is_translated_to_what_it_writes(tokenizer: Any) -> None:
    tokenizer.chat_template = SMOLLM2
    found = turn_template(tokenizer, {})
    assert found is not None
    assert found.turns["user"] == ("<|im_start|>user\n", "<|im_end|>\n")
    assert found.without_system.startswith("<|im_start|>system\nYou are")
    assert found.reply == "<|im_start|>assistant\n"
    for messages in CONVERSATIONS:
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert found.render(messages) == wanted
    assert modelfile("harbour-q8_0.gguf", found, ["<|im_end|>", 'a"b'], 131072) == (
        "FROM ./harbour-q8_0.gguf\n"
        'TEMPLATE """{{ if .Messages }}{{ if ne (index .Messages 0).Role "system" }}'
        '{{ "<|im_start|>system\\nYou are a helpful AI assistant named SmolLM<|im_end|>\\n" }}{{ end }}{{ end }}'
        '{{ range .Messages }}{{ if eq .Role "system" }}{{ "<|im_start|>system\\n" }}{{ .Content }}'
        '{{ "<|im_end|>\\n" }}{{ else if eq .Role "user" }}{{ "<|im_start|>user\\n" }}{{ .Content }}'
        '{{ "<|im_end|>\\n" }}{{ else if eq .Role "assistant" }}{{ "<|im_start|>assistant\\n" }}{{ .Content }}'
        '{{ "<|im_end|>\\n" }}{{ end }}{{ end }}{{ "<|im_start|>assistant\\n" }}"""\n'
        'PARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop """a"b"""\n'
        "PARAMETER temperature 0\n"
        "PARAMETER repeat_penalty 1.0\n"
        "PARAMETER num_ctx 8192\n"
    )


@pytest.mark.parametrize("template", [TRIMS, THOUGHTS_LEFT_OUT, NO_SYSTEM, LAST_ONLY, BROKEN, None])
def test_a_template_that_does_more_is_not_translated(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    assert turn_template(tokenizer, {}) is None
    text = modelfile("a.gguf", None, ["</s>"], 2048)
    assert "TEMPLATE" not in text and f"# {UNTRANSLATED}\n" in text and "PARAMETER num_ctx 2048" in text


def test_template_arguments_are_applied(tokenizer: Any) -> None:
    tokenizer.chat_template = SMOLLM2.replace("named SmolLM", "named ' + name + '")
    found = turn_template(tokenizer, {"name": "Ada"})
    assert found is not None and "named Ada" in found.without_system


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_go_renders_what_jinja_renders(tokenizer: Any, tmp_path: Path) -> None:
    asked, wanted = [], []
    for template in (SMOLLM2, builtin_template("builtin:chatml"), builtin_template("builtin:plain")):
        tokenizer.chat_template = template
        found = turn_template(tokenizer, {})
        assert found is not None
        for messages in CONVERSATIONS:
            asked.append({"Template": found.in_go(), "Messages": messages})
            wanted.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    program = """package main

import ("encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template string; Messages []*Message }

func main() {
    var cases []Case
    raw, _ := os.ReadFile("cases.json")
    if json.Unmarshal(raw, &cases) != nil { os.Exit(3) }
    for _, c := range cases {
        parsed := template.Must(template.New("").Parse(c.Template))
        if parsed.Execute(os.Stdout, map[string]any{"Messages": c.Messages}) != nil { os.Exit(4) }
        os.Stdout.WriteString("\\x00")
    }
}
"""
    (tmp_path / "main.go").write_text(program, encoding="utf-8")
    (tmp_path / "cases.json").write_text(json.dumps(asked), encoding="utf-8")
    done = subprocess.run(["go", "run", "main.go"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode("utf-8").split("\0")[:-1] == wanted
