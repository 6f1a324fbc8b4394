"""Compiled templates: rendered as Transformers does, bounded, and those that come with hfkit."""

from __future__ import annotations

import json
from datetime import date
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.data import bounded_templates
from hfkit.data.bounded_templates import EndlessTemplate, TemplateFault
from hfkit.data.chat_template import ChatTemplate
from hfkit.data.conversation import Conversation
from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.models.loading import load_renderer, load_stop_ids, load_tokenizer
from hfkit.recipe import ModelSection

if TYPE_CHECKING:
    from tests.data.conftest import TokenizerMaker


def shipped() -> list[Path]:
    try:
        return sorted(Path(str(distribution("trl").locate_file("trl/chat_templates"))).glob("*.jinja"))
    except PackageNotFoundError:
        return []


FEATURES = {
    "blocks are trimmed": "  {% if true %}\n a\n  {% endif %}\nb",
    "loops": "{% for m in messages %}{{ loop.index }}{{ loop.length }}{{ loop.last }}{{ loop.previtem is defined }}"
    "{{ loop.cycle('x', 'y') }}{% else %}none{% endfor %}",
    "loops over what is chosen": "{% for m in messages if m.role != 'user' %}{{ m.role }}{{ loop.length }}{% endfor %}",
    "recursive loops": "{% for m in [1, [2, [3]]] recursive %}{{ loop(m) if m is iterable else m }}{% endfor %}",
    "breaks": "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% continue %}x"
    "{% endfor %}",
    "macros": "{% macro say(a, b='!') %}{{ a }}{{ b }}{{ caller() if caller else '' }}{% endmacro %}{{ say('x') }}"
    "{% call say('y') %}z{% endcall %}",
    "namespaces": "{% set n = namespace(a=1) %}{% for m in messages %}{% set n.a = n.a + 1 %}{% endfor %}{{ n.a }}",
    "sums and joins": "{{ 'a' + 'b' ~ 1 ~ 'c' + 'd' }}{{ [1] + [2] }}{{ 'ab' * 3 }}{{ 7 % 4 }}{{ 2 ** 5 }}"
    "{{ '%s-%03d' % ('x', 7) }}",
    "methods": "{{ ' A b '.strip().lower().upper().split(' ') }}{{ 'a'.startswith('a') }}{{ 'aXb'.replace('X', '-') }}"
    "{{ 'x'.format is defined }}{{ messages[0].items() | list }}{{ messages[0].get('role') }}{{ messages[0].keys() }}",
    "what is not there": "{{ messages[0].nothing is defined }}{{ messages[0]['nothing'] is none }}"
    "{{ messages[0].nothing | default('d') }}",
    "JSON": "{{ {'a': '<é&>', 'b': [1, none]} | tojson }}{{ messages | tojson(indent=2) }}"
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "generation": "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}"
    "{{ x is defined }}{% endfor %}",
    "dates": "{{ strftime_now('%d %b %Y') }}",
    "dicts": "{{ dict(a=1) }}{{ dict.fromkeys(['a'], 2) }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') "
    "| list | length }}{{ '  x ' | trim }}{{ ['b', 'a'] | sort | first }}{{ 'x' | indent(4, first=true) }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ mood is defined }}{{ tools }}{{ documents }}",
}


@pytest.mark.parametrize("template", FEATURES.values(), ids=list(FEATURES))
def test_a_template_is_rendered_as_transformers_renders_it(template: str, make_tokenizer: TokenizerMaker) -> None:
    tokenizer = make_tokenizer(template, ["<pad>", "<s>", "</s>"], "</s>", "<s>")
    messages = [{"role": "user", "content": " Hi <é> "}, {"role": "assistant", "content": "Yes\n"}]
    for prompt in (False, True):
        ours = ChatTemplate(template).render(
            messages,
            generation_prompt=prompt,
            variables={**tokenizer.special_tokens_map, "strftime_now": date.today().isoformat()},
        )
        assert ours == tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)


@pytest.mark.skipif(not shipped(), reason="TRL IS NOT INSTALLED: its chat templates are not compared")
@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
@settings(deadline=None, max_examples=4)
@given(data=st.data())
def test_shipped_templates_are_rendered_as_transformers_renders_them(
    path: Path, make_tokenizer: TokenizerMaker, data: st.DataObject
) -> None:
    template = path.read_text(encoding="utf-8")
    tokenizer = make_tokenizer(template, ["<pad>", "<s>", "</s>"], "</s>", "<s>")
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": ["x", 1, None], "deep": {"y": 2.5}}}}
    message = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system"]), "content": st.text(max_size=8)},
        optional={"tool_calls": st.just([call]), "reasoning_content": st.text(max_size=4)},
    )
    messages: list[dict[str, Any]] = data.draw(st.lists(message, min_size=1, max_size=4))
    prompt = data.draw(st.booleans())
    thinking = [{"thinking": m["reasoning_content"], **m} if "reasoning_content" in m else m for m in messages]
    ours: str | None
    theirs: str | None
    try:
        ours = ChatTemplate(template).render(
            thinking,
            generation_prompt=prompt,
            variables={**tokenizer.special_tokens_map, "strftime_now": date.today().isoformat()},
        )
    except TemplateFault:
        ours = None
    try:
        theirs = str(tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False))
    # Whatever a template may raise.
    except Exception:
        theirs = None
    assert ours == theirs


WITHOUT_END = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that passes everything over": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}"
    "{% endfor %}",
    "macros that call themselves": "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(60) }}",
    "a macro that calls itself for ever": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "loops that call themselves": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "joined text": "{% set n = namespace(t='ab') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "added text": "{% set n = namespace(t='ab') %}{% for a in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "added lists": "{% set n = namespace(t=[1]) %}{% for a in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "repeated text": "{{ 'ab' * 99999999999 }}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "padded numbers": "{{ '%999999999d' % 1 }}",
    "output": "{% for a in range(99999) %}{{ 'abcdefghij' * 1000 }}{% endfor %}",
    "a range": "{{ range(10 ** 9) | list }}",
}


@pytest.mark.parametrize("template", WITHOUT_END.values(), ids=list(WITHOUT_END))
def test_a_template_without_end_is_stopped(template: str) -> None:
    with pytest.raises(TemplateFault):
        ChatTemplate(template).render([], generation_prompt=False)


@pytest.mark.parametrize("name", ["nested loops", "macros that call themselves", "a macro that calls itself for ever"])
def test_what_never_ends_is_told_from_other_faults(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(bounded_templates, "MAX_STEPS", 1000)
    with pytest.raises(EndlessTemplate):
        ChatTemplate(WITHOUT_END[name]).render([], generation_prompt=False)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (WITHOUT_END["nested loops"], "does not come to an end: over 1000 steps"),
        (
            "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}{{ raise_exception('no more') }}{% endif %}",
            "does not render a question that is to be answered: no more",
        ),
    ],
)
def test_a_template_that_can_never_be_used_is_not_tried_for_each_row(
    make_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch, template: str, words: str
) -> None:
    monkeypatch.setattr(bounded_templates, "MAX_STEPS", 1000)
    renderer = Renderer(make_tokenizer(template, ["<pad>", "<s>", "</s>"], "</s>", "<s>"))
    for attempt in range(3):
        with pytest.raises(RequestError, match=words):
            renderer.prompt_ids([{"role": "user", "content": "Hi"}])
        if attempt == 0:
            monkeypatch.setattr(ChatTemplate, "render", lambda *given, **named: pytest.fail("it was tried again"))


REACHING = {
    "classes": "{{ ''.__class__.__mro__ }}",
    "a namespace's inside": "{{ namespace(_x=1) }}",
    "what was given": "{{ messages.append(1) }}",
    "globals": "{{ raise_exception.__globals__['json'] }}",
    "its own words": "{{ raise_exception('no such role') }}",
    "chance": "{{ messages | random }}",
    "filler": "{{ lipsum() }}",
}


@pytest.mark.parametrize("template", REACHING.values(), ids=list(REACHING))
def test_what_a_template_must_not_do_is_a_fault(template: str) -> None:
    with pytest.raises(TemplateFault):
        ChatTemplate(template).render([{"role": "user", "content": "Hi"}], generation_prompt=False)


def test_a_template_that_does_not_compile_names_its_line() -> None:
    with pytest.raises(TemplateFault, match="line 2: "):
        ChatTemplate("a\n{% for m in %}")


CALL = {"function": {"name": "look", "arguments": {"at": "<|im_end|>"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}
LONG = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "reasoning_content": "I look", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "21"},
    {"role": "assistant", "content": "So"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": ""},
]


@pytest.mark.parametrize("name", ["builtin:chatml", "builtin:plain"])
def test_templates_that_come_with_hfkit_keep_a_conversation_in_one_sequence(tiny_model: Path, name: str) -> None:
    renderer = load_renderer(ModelSection(base=str(tiny_model), chat_template=Path(name)))
    row = Conversation.model_validate({"id": "a", "document": "a", "messages": LONG, "tools": [TOOL]})
    (sequence,) = renderer.training_sequences(row)
    assert len(sequence.spans) == 3
    end = renderer.tokenizer.eos_token_id
    assert all(sequence.input_ids[stop - 1] == end for _, stop in sequence.spans)
    said = renderer.tokenizer.decode(sequence.input_ids)
    assert all(word in said for word in ("Be kind.", "Looks.", "I look", "21", "So", "And?"))
    assert said.count('"arguments"') >= 2 and not renderer.remarks
    assert renderer.left_out(row) == ()


def test_a_template_that_does_not_exist_is_an_error_that_names_those_that_do(tiny_model: Path) -> None:
    with pytest.raises(RequestError, match="builtin:chatml, builtin:plain"):
        load_tokenizer(ModelSection(base=str(tiny_model), chat_template=Path("builtin:chatlm")))


def test_stop_tokens_are_read_without_the_model(tiny_model: Path, tmp_path: Path) -> None:
    def written(name: str, value: object) -> None:
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")

    section = ModelSection(base=str(tmp_path))
    assert load_stop_ids(section) == ()
    written("config.json", {"eos_token_id": 3})
    assert load_stop_ids(section) == (3,)
    written("generation_config.json", {"eos_token_id": [5, 4]})
    assert load_stop_ids(section) == (5, 4)
    written("generation_config.json", {"eos_token_id": None})
    assert load_stop_ids(section) == (3,)
    (tmp_path / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(RequestError, match=r"generation_config\.json cannot be read"):
        load_stop_ids(section)


def test_a_tokenizer_without_a_template_can_still_render_text(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    settings_file = tmp_path / "tokenizer_config.json"
    written = json.loads(settings_file.read_text(encoding="utf-8"))
    written.pop("chat_template", None)
    settings_file.write_text(json.dumps(written), encoding="utf-8")
    section = ModelSection(base=str(tmp_path))
    with pytest.raises(RequestError, match="builtin:chatml"):
        load_renderer(section)
    assert load_renderer(section, chat=False).text_sequences("Some words", 64)
