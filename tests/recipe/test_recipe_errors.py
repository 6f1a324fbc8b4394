"""Every mistake gets the line that helps: file, line, key, what was given, what is allowed, the nearest name."""

from collections.abc import Callable

import pytest

MODEL = "model: {base: m}\n"
DATA = "data: {sources: [{path: a.jsonl}]}\n"
RAG = "rag: {documents: [docs/]}\n"
KEYS = "name, seed, allow_code, model, data, train, evaluate, rag, app, hub, track"
GATE = "tuned.token_f1 >= base.token_f1 + 0.05 with confidence 0.95"
NAME = "a name of at most 100 of the characters a-z 0-9 . _ - that starts with a letter or a digit"
BRACKET = 'a ":" cannot stand here: quote a value that holds ": ", or check how this line is indented'

ONE = "expected a mapping with exactly one of the keys path, hub, sql, callable, synthesize, got"


def train(line: str) -> str:
    """A sound recipe whose `train` section has `line` on line 5."""
    return f"name: x\n{MODEL}{DATA}train:\n  {line}\n"


def rag(line: str) -> str:
    """A sound recipe whose `rag` section has `line` on line 4."""
    return f"name: x\nrag:\n  documents: [docs/]\n  {line}\n"


def evaluate(line: str) -> str:
    """A sound recipe whose `evaluate` section has `line` on line 7."""
    return f"name: x\n{MODEL}{DATA}train: {{}}\nevaluate:\n  tasks: [grounded_answers]\n  {line}\n"


BROKEN: list[tuple[str, str, list[str]]] = [
    # Unknown keys.
    ("near key", train("learning_rte: 1"), ["x.yaml:5: train.learning_rte: unknown key; did you mean learning_rate?"]),
    (
        "key of a section below",
        train("rank: 4"),
        ["x.yaml:5: train.rank: unknown key; did you mean model.adapter.rank?"],
    ),
    (
        "key of two other sections",
        f"name: x\n{DATA}batch_size: 4\n",
        [
            "x.yaml:3: batch_size: unknown key; did you mean train.batch_size or evaluate.batch_size or "
            "evaluate.harness.batch_size?"
        ],
    ),
    (
        "key of the top",
        train("seed: 4"),
        ["x.yaml:5: train.seed: unknown key; did you mean seed at the top of the file?"],
    ),
    ("other kits' word", train("lr: 1"), ["x.yaml:5: train.lr: unknown key; did you mean learning_rate?"]),
    (
        "other kits' word elsewhere",
        train("lora_alpha: 1"),
        ["x.yaml:5: train.lora_alpha: unknown key; did you mean model.adapter.alpha?"],
    ),
    ("near section", "name: x\nmodle: {base: m}\n", ["x.yaml:2: modle: unknown key; did you mean model?"]),
    ("no such section", "name: x\nzebra: {a: 1}\n", [f"x.yaml:2: zebra: unknown key; the keys here are {KEYS}"]),
    (
        "near key two levels down",
        rag("chunk: {token: 90}"),
        ["x.yaml:4: rag.chunk.token: unknown key; did you mean tokens?"],
    ),
    # Types.
    ("word for a number", train("epochs: three"), ['x.yaml:5: train.epochs: expected a number > 0, got "three"']),
    (
        "quoted number",
        train('epochs: "3"'),
        ['x.yaml:5: train.epochs: expected a number > 0, got "3"; write it without quotes'],
    ),
    ("boolean for a number", train("epochs: true"), ["x.yaml:5: train.epochs: expected a number > 0, got true"]),
    ("yes is a word", train("save_steps: yes"), ['x.yaml:5: train.save_steps: expected an integer >= 1, got "yes"']),
    (
        "fraction for an integer",
        train("batch_size: 8.0"),
        ["x.yaml:5: train.batch_size: expected an integer >= 1, got 8.0"],
    ),
    ("null for a number", train("epochs: null"), ["x.yaml:5: train.epochs: expected a number > 0, got null"]),
    ("nothing for a number", train("epochs:"), ["x.yaml:5: train.epochs: expected a number > 0, got nothing"]),
    ("list for a number", train("epochs: [1]"), ["x.yaml:5: train.epochs: expected a number > 0, got a list"]),
    ("infinity", train("learning_rate: .inf"), ["x.yaml:5: train.learning_rate: expected a number > 0, got .inf"]),
    (
        "too large a float",
        train("learning_rate: 1e999"),
        ["x.yaml:5: train.learning_rate: expected a number > 0, got 1e999"],
    ),
    ("not a number", train("epochs: .nan"), ["x.yaml:5: train.epochs: expected a number > 0, got .nan"]),
    (
        "too large an integer",
        train("save_steps: 99999999999999999999"),
        ["x.yaml:5: train.save_steps: 99999999999999999999 is too large a number"],
    ),
    (
        "number for text",
        "name: x\nmodel: {base: m, revision: 1e10}\n",
        ["x.yaml:2: model.revision: expected text or null, got 1e10; put it in quotes"],
    ),
    ("empty text", "name: x\nmodel: {base: ''}\n", ['x.yaml:2: model.base: expected text, got ""']),
    (
        "a path that is none",
        "name: x\nmodel: {base: m, chat_template: .}\n",
        ['x.yaml:2: model.chat_template: expected a file\'s path or null, got "."'],
    ),
    (
        "value for a section",
        "name: x\nmodel: smollm\n",
        ['x.yaml:2: model: expected a mapping of keys or null, got "smollm"'],
    ),
    (
        "list for a section",
        "name: x\nmodel: [a]\n",
        ["x.yaml:2: model: expected a mapping of keys or null, got a list"],
    ),
    (
        "text for a list",
        "name: x\nrag: {documents: docs/}\n",
        ['x.yaml:2: rag.documents: expected a non-empty list of text, got "docs/"; write ["docs/"]'],
    ),
    (
        "empty list",
        "name: x\nrag: {documents: []}\n",
        ["x.yaml:2: rag.documents: expected a non-empty list of text, got an empty list"],
    ),
    (
        "an item of a list, on its own line",
        "name: x\nrag:\n  documents:\n    - docs/\n    - 7\n",
        ["x.yaml:5: rag.documents.1: expected text, got 7; put it in quotes"],
    ),
    (
        "only item wrong",
        "name: x\nrag:\n  documents:\n    - null\n",
        ["x.yaml:4: rag.documents.0: expected text, got null"],
    ),
    (
        "item in a list of a union",
        "name: x\nmodel: {base: m, adapter: {targets: [q_proj, 2]}}\n",
        ["x.yaml:2: model.adapter.targets.1: expected text, got 2; put it in quotes"],
    ),
    (
        "neither word nor list",
        "name: x\nmodel: {base: m, adapter: {targets: 5}}\n",
        ["x.yaml:2: model.adapter.targets: expected all-linear or a non-empty list of text, got 5"],
    ),
    # Ranges.
    ("below", train("batch_size: 0"), ["x.yaml:5: train.batch_size: expected an integer >= 1, got 0"]),
    ("at an open end", train("warmup: 1.0"), ["x.yaml:5: train.warmup: expected a number >= 0 and < 1, got 1.0"]),
    ("above", rag("search: {top_k: 51}"), ["x.yaml:4: rag.search.top_k: expected an integer >= 1 and <= 50, got 51"]),
    ("seed", "name: x\nseed: -1\n", ["x.yaml:2: seed: expected an integer >= 0 and <= 4294967295, got -1"]),
    (
        "or a word",
        train("micro_batch_size: lots"),
        ['x.yaml:5: train.micro_batch_size: expected auto or an integer >= 1, got "lots"'],
    ),
    (
        "or a word, below",
        train("micro_batch_size: 0"),
        ["x.yaml:5: train.micro_batch_size: expected auto or an integer >= 1, got 0"],
    ),
    ("name", "name: My Run\n", [f'x.yaml:1: name: expected {NAME}, got "My Run"']),
    ("name that climbs", "name: ../x\n", [f'x.yaml:1: name: expected {NAME}, got "../x"']),
    (
        "overlap",
        rag("chunk: {tokens: 40, overlap: 40}"),
        ["x.yaml:4: rag.chunk.overlap: expected less than tokens (40), got 40"],
    ),
    (
        "overlap by default",
        rag("chunk: {tokens: 16}"),
        ["x.yaml:4: rag.chunk.overlap: expected less than tokens (16), got 30, which is the default"],
    ),
    # Choices.
    (
        "near word",
        train("schedule: lineer"),
        [
            "x.yaml:5: train.schedule: expected one of linear, cosine, constant, inverse_sqrt, wsd; "
            'got "lineer"; did you mean linear?'
        ],
    ),
    (
        "far word",
        train("schedule: zzz"),
        ['x.yaml:5: train.schedule: expected one of linear, cosine, constant, inverse_sqrt, wsd; got "zzz"'],
    ),
    ("only word", train("method: dpo"), ['x.yaml:5: train.method: expected sft, got "dpo"']),
    (
        "none for null",
        "name: x\nmodel: {base: m, quantization: none}\n",
        ['x.yaml:2: model.quantization: expected one of nf4, int8, null; got "none"; did you mean null?'],
    ),
    (
        "task",
        f"name: x\n{MODEL}{DATA}train: {{}}\nevaluate: {{tasks: [grounded_answer]}}\n",
        [
            "x.yaml:5: evaluate.tasks.0: expected one of grounded_answers, conversations, retrieval or a mapping with "
            'exactly one of the keys use, kind, file; got "grounded_answer"; did you mean grounded_answers?'
        ],
    ),
    # Required keys.
    ("no name", "seed: 3\n", ["x.yaml: name: required key is missing"]),
    ("no base", "name: x\nmodel:\n  precision: bf16\n", ["x.yaml:2: model.base: required key is missing"]),
    ("no documents", "name: x\n\nrag: {}\n", ["x.yaml:3: rag.documents: required key is missing"]),
    (
        "no value for a section",
        "name: x\nrag: {documents: [a]}\nmodel: {base: m}\napp:\n",
        ["x.yaml:4: app: is empty; write {} to take its defaults, or null to do without it"],
    ),
    # Sources.
    (
        "both kinds",
        f"name: x\n{RAG}data: {{sources: [{{path: a, synthesize: {{}}}}]}}\n",
        [f"x.yaml:3: data.sources.0: {ONE} path and synthesize"],
    ),
    ("no kind", "name: x\ndata:\n  sources:\n    - {}\n", [f"x.yaml:4: data.sources.0: {ONE} none of them"]),
    (
        "not even a mapping",
        "name: x\ndata: {sources: [a.jsonl]}\n",
        [f'x.yaml:2: data.sources.0: {ONE.removesuffix(", got")}, got "a.jsonl"'],
    ),
    (
        "near kind",
        "name: x\ndata: {sources: [{pth: a}]}\n",
        ["x.yaml:2: data.sources.0.pth: unknown key; did you mean path?"],
    ),
    (
        "unknown key beside a kind",
        "name: x\ndata: {sources: [{path: a, wait: 1}]}\n",
        [
            "x.yaml:2: data.sources.0.wait: unknown key; "
            "what stands here is a mapping with exactly one of the keys path, hub, sql, callable, synthesize"
        ],
    ),
    (
        "inside a kind",
        f"name: x\n{RAG}data: {{sources: [{{path: a}}, {{synthesize: {{passages: 51}}}}]}}\n",
        ["x.yaml:3: data.sources.1.synthesize.passages: expected an integer >= 2 and <= 50, got 51"],
    ),
    (
        "near key inside a kind",
        f"name: x\n{RAG}data: {{sources: [{{synthesize: {{pasages: 5}}}}]}}\n",
        ["x.yaml:3: data.sources.0.synthesize.pasages: unknown key; did you mean passages?"],
    ),
    # Gates.
    (
        "gate",
        evaluate("gates: [tuned is better]"),
        [
            f'x.yaml:7: evaluate.gates.0: not a gate; write one such as "{GATE}", "tuned.token_f1 >= 0.5" or '
            '"tuned.mmlu.accuracy not worse than base by 0.02"'
        ],
    ),
    (
        "gate's metric, on its own line",
        evaluate("gates:\n    - tuned.token_f1 >= 0.2\n    - tuned.token_f2 >= 0.2"),
        [
            "x.yaml:9: evaluate.gates.1: unknown metric token_f2; expected one of "
            "token_f1, citation_accuracy, abstention_accuracy, citation_precision, citation_recall; did you mean "
            "token_f1?"
        ],
    ),
    (
        "gate of another type",
        evaluate("gates: [null]"),
        [f'x.yaml:7: evaluate.gates.0: expected a gate such as "{GATE}", got null'],
    ),
    # What sections need of each other.
    (
        "train alone",
        "name: x\ntrain: {}\n",
        ["x.yaml:2: train: needs the sections model and data, which are not in this recipe"],
    ),
    (
        "evaluate the tuned model without train",
        f"name: x\n{MODEL}{DATA}evaluate: {{tasks: [grounded_answers], models: [base, tuned]}}\n",
        ["x.yaml:4: evaluate: needs the section train, which is not in this recipe"],
    ),
    (
        "app without rag",
        f"name: x\n{MODEL}app: {{}}\n",
        ["x.yaml:3: app: needs the section rag, which is not in this recipe"],
    ),
    (
        "section that is null",
        f"name: x\n{RAG}model: null\napp: {{}}\n",
        ["x.yaml:4: app: needs the section model, which is not in this recipe"],
    ),
    (
        "synthesis without documents",
        "name: x\ndata:\n  sources:\n    - path: a\n    - synthesize: {}\n",
        [
            "x.yaml:5: data.sources.1.synthesize: needs the section rag, whose documents it writes about "
            "and which is not in this recipe"
        ],
    ),
    # YAML.
    ("tab", "name: x\nmodel:\n\tbase: m\n", ["x.yaml:3:1: a tab stands here; YAML indents with spaces"]),
    (
        "open bracket",
        "name: x\nrag: {documents: [a, b}\n",
        ["x.yaml:2:18: the [ that opens here is not closed, or a comma is missing before line 2, column 23"],
    ),
    (
        "open brace",
        "name: x\nmodel: {base: m\nseed: 3\n",
        ["x.yaml:2:8: the { that opens here is not closed, or a comma is missing before line 3, column 5"],
    ),
    ("open quote", "name: 'x\nseed: 1\n", ["x.yaml:1:7: the quote that opens here is not closed"]),
    (
        "bad escape",
        'name: "a\\q"\n',
        ["x.yaml:1:10: found unknown escape character 'q'; write \\\\ for a backslash, or use single quotes"],
    ),
    ("key further in", "name: x\nmodel:\n  base: m\n   revision: y\n", [f"x.yaml:4:12: {BRACKET}"]),
    ("colon in a value", "name: x\nmodel: {base: m}\napp: a: b\n", [f"x.yaml:3:7: {BRACKET}"]),
    (
        "key further out",
        "name: x\nmodel:\n  base: m\n revision: y\n",
        [
            "x.yaml:4:2: does not line up with what stands above, from line 1 on; "
            "keys of one mapping need the same indentation"
        ],
    ),
    ("no colon", "name: x\nmodel\n", ['x.yaml:2:1: a key without ":" after it; write "key: value"']),
    ("at sign", "name: @x\n", ["x.yaml:1:7: a value cannot begin with '@'; put it in quotes"]),
    ("no anchor", "name: *y\n", ["x.yaml:1:7: *y repeats &y, which does not stand before it"]),
    (
        "anchor twice",
        "name: &a x\nmodel: {base: &a m}\n",
        ["x.yaml:2:15: an anchor of this name stands above already; give this one another"],
    ),
    ("two documents", "name: x\n---\nname: y\n", ["x.yaml:2:1: a second document begins here; a recipe is one"]),
    (
        "duplicate",
        train("epochs: 1\n  warmup: 0\n  epochs: 2"),
        ["x.yaml:7: train.epochs: duplicate key; it stands on line 5 already"],
    ),
    (
        "duplicate section",
        "name: x\nmodel: {base: m}\nname: x\nmodel: {base: n}\n",
        [
            "x.yaml:3: name: duplicate key; it stands on line 1 already",
            "x.yaml:4: model: duplicate key; it stands on line 2 already",
        ],
    ),
    ("key that is a list", "name: x\n? [a]\n: 3\n", ["x.yaml:2: a key must be a word"]),
    (
        "tag",
        "name: x\nmodel: {base: !!python/name:os.system m}\n",
        [
            "x.yaml:2: model.base: the tag !!python/name:os.system is not allowed; "
            "a recipe holds text, numbers, true, false, null, lists and mappings"
        ],
    ),
    ("tag that does not fit", "name: x\nseed: !!int seven\n", ['x.yaml:2: seed: "seven" is tagged !!int and is none']),
    (
        "value at the top",
        "quickstart\n",
        ["x.yaml: expected keys such as name: quickstart at the top of the file, got one value"],
    ),
    (
        "list at the top",
        "- name: x\n",
        ["x.yaml: expected keys such as name: quickstart at the top of the file, got a list"],
    ),
    ("empty", "", ["x.yaml: the file is empty; a recipe says at least its name, such as name: quickstart"]),
    (
        "comments only",
        "# name: x\n",
        ["x.yaml: the file is empty; a recipe says at least its name, such as name: quickstart"],
    ),
    (
        "control character",
        "name: x\nseed: \x07\n",
        ["x.yaml:2:7: holds the control character U+0007; a recipe is a plain text file"],
    ),
    ("merge of a value", "name: x\n<<: 3\n", ["x.yaml:2: <<: takes a mapping, or a list of mappings"]),
    (
        "alias in itself",
        "name: x\nmodel: &a {base: *a}\n",
        ["x.yaml:2: model.base: an alias stands inside the very value that it repeats"],
    ),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_recipe_gets_exactly_these_lines(
    broken: Callable[..., list[str]], content: str, expected: list[str]
) -> None:
    assert broken(content) == expected


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file(broken: Callable[..., list[str]]) -> None:
    content = """\
name: My Run
seed: yes
train:
  epochs: three
  learning_rte: 1
  epochs: 2
rag: {chunk: {tokens: 16}, documents: docs/}
hub: {}
data: {max_length: 2.0, sources: [{synthesize: {questions: 0}}, {pth: x}]}
"""
    assert [line.split(": ")[:2] for line in broken(content, "train.warmup=2", "evaluate.tasks=[]")] == [
        ["x.yaml:1", "name"],
        ["x.yaml:2", "seed"],
        ["x.yaml:3", "train"],  # needs the section model
        ["x.yaml:4", "train.epochs"],
        ["x.yaml:5", "train.learning_rte"],
        ["x.yaml:6", "train.epochs"],
        ["x.yaml:7", "rag.documents"],
        ["x.yaml:7", "rag.chunk.overlap"],
        ["x.yaml:8", "hub"],
        ["x.yaml:8", "hub.repo"],
        ["x.yaml:9", "data.sources.0.synthesize.questions"],
        ["x.yaml:9", "data.sources.1.pth"],
        ["x.yaml:9", "data.max_length"],
        ["override train.warmup=2", "expected a number >= 0 and < 1, got 2"],
        [
            "override evaluate.tasks=[]",
            "expected a non-empty list of words among grounded_answers, conversations, retrieval or mappings, got an "
            "empty list",
        ],
    ]


def test_a_message_stays_one_line_whatever_was_written(broken: Callable[..., list[str]]) -> None:
    assert broken('name: x\n"a\\nb": 1\nseed: "1\\n2"\n', "app.ti\ntle=x") == [
        f"x.yaml:2: a\\nb: unknown key; the keys here are {KEYS}",
        'x.yaml:3: seed: expected an integer >= 0 and <= 4294967295, got "1\\n2"',
        "override app.ti\\ntle=x: app: needs the sections model and rag, which are not in this recipe",
        "override app.ti\\ntle=x: unknown key; did you mean title?",
    ]


def test_long_values_are_cut(broken: Callable[..., list[str]]) -> None:
    (line,) = broken(f"name: x\nseed: {'long ' * 2000}\n")
    assert line.endswith('…"') and len(line) < 200
