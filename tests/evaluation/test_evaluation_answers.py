"""Answers are kept as they come: a process that is killed loses none, and nothing is asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hfkit.data.conversation import Turn
from hfkit.evaluation.answers import AnswerFile, asked_of
from hfkit.evaluation.asking import Asker
from hfkit.evaluation.models import Loader
from hfkit.evaluation.rows import Failed, Generation, GenerationRow, Likelihood, Likelihoods, TextRow
from hfkit.evaluation.tasks.task import Task
from hfkit.progress import Progress
from hfkit.recipe import Endpoint, EndpointModel

IDENTITY = {"model": "m", "settings": {"max_new_tokens": 3}}


def row(text: str, **more: object) -> GenerationRow:
    given = {"id": text, "group": "g", "references": ("r",), **more}
    return GenerationRow.model_validate({**given, "messages": [Turn(role="user", content=text)]})


def test_what_was_added_is_known_to_the_next_one_and_to_no_other(tmp_path: Path) -> None:
    answers = [
        Generation(text="an \u2028 answer\nof two lines", stopped=True, near_tie=True),
        Failed(reason="no"),
        Likelihoods(of=(Likelihood(log_likelihood=-1.5, tokens=2, bytes=3, is_greedy=False),)),
    ]
    rows = [row("a"), row("b"), TextRow(id="c", group="g", text="c")]
    with AnswerFile(tmp_path, "base", IDENTITY) as file:
        assert file.known(rows[0]) is None
        for one, answer in zip(rows, answers, strict=True):
            file.add(one, answer)
    with AnswerFile(tmp_path, "base", IDENTITY) as file:
        assert [file.known(one) for one in rows] == answers
    with AnswerFile(tmp_path, "base", {**IDENTITY, "model": "other"}) as other:
        assert other.known(rows[0]) is None and other.path != file.path


def test_only_what_is_asked_matters() -> None:
    assert asked_of(row("a")) == asked_of(row("a", references=("other",), id="z", group="h", facts={"gold": 1}))
    assert asked_of(row("a")) != asked_of(row("b"))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert asked_of(row("a")) != asked_of(row("a", tools=tools))


@pytest.mark.parametrize(
    ("torn", "left"), [(b'{"asked": "x", "ans', 0), (b"\n", 1), (b"\xff\xfe\n", 1), (b'{"asked": 3}\n', 1)]
)
def test_a_line_that_cannot_be_read_hides_no_other_and_only_an_unfinished_one_is_cut_off(
    tmp_path: Path, torn: bytes, left: int
) -> None:
    with AnswerFile(tmp_path, "base", IDENTITY) as file:
        assert file.damaged == 0
        file.add(row("a"), Failed(reason="1"))
    with file.path.open("ab") as end:
        end.write(torn)
    with AnswerFile(tmp_path, "base", IDENTITY) as file:
        assert (file.known(row("a")), file.damaged) == (Failed(reason="1"), left)
        file.add(row("b"), Failed(reason="2"))
    with AnswerFile(tmp_path, "base", IDENTITY) as file:
        assert (file.known(row("a")), file.known(row("b"))) == (Failed(reason="1"), Failed(reason="2"))
        assert file.damaged == left
    assert len(file.path.read_bytes().splitlines()) == 2 + left


def test_what_a_damaged_line_answered_is_said_and_asked_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def replies(
        endpoint: Endpoint, rows: Sequence[GenerationRow], *, max_new_tokens: int
    ) -> Iterator[tuple[int, Generation]]:
        asked.append([one.id for one in rows])
        yield from ((number, Generation(text=one.id, stopped=True)) for number, one in enumerate(rows))

    monkeypatch.setattr("hfkit.evaluation.endpoint.chat_replies", replies)
    model = EndpointModel(name="one", endpoint="http://127.0.0.1:9/v1", model="m")
    task = Task(name="t", title="t", kind="generation", rows=tuple(row(text) for text in "abc"), metrics=())
    asker = Asker(
        run=tmp_path,
        loader=Loader(tmp_path),
        identities={"one": {}},
        max_new_tokens=3,
        batch_size="auto",
        progress=Progress(),
    )
    expected = [Generation(text=text, stopped=True) for text in "abc"]
    assert asker.ask(model, task) == expected
    (kept,) = (tmp_path / ".answers").iterdir()
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(lines[0] + lines[1].replace(b'"asked"', b'"ask') + lines[2])
    assert "damaged" not in capsys.readouterr().err
    assert asker.ask(model, task) == expected
    assert f"{kept}: 1 damaged line is skipped" in capsys.readouterr().err
    assert asker.ask(model, task) == expected
    assert "damaged" not in capsys.readouterr().err, "nothing is missing any more"
    assert asked == [["a", "b", "c"], ["b"]]


SCRIPT = """
import sys
from pathlib import Path
import hfkit.evaluation.generation as generation
from hfkit.pipeline import run_stages
from hfkit.progress import Progress
from hfkit.recipe import load_recipe
import os, signal

most = int(sys.argv[1])
real = generation.generate_each
asked = 0

def counting(model, renderer, prompts, **settings):
    global asked
    for number, answer in real(model, renderer, prompts, **settings):
        asked += 1
        yield number, answer
        if asked == most:
            os.kill(os.getpid(), signal.SIGKILL)

generation.generate_each = counting
overrides = sys.argv[2:]
outcomes = run_stages(load_recipe(Path("tiny.yaml"), overrides), ("evaluate",), Progress(quiet=True))
print(asked, outcomes["evaluate"].made_now)
"""


def test_a_killed_evaluation_asks_what_is_missing_and_another_gate_asks_nothing(
    finished: Path, tiny_recipe: Callable[..., Path]
) -> None:
    """Two models on six rows: killed after the seventh answer, which is one of the second model's."""
    folder = finished.parent

    def run(most: int, *overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, str(most), *overrides],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )

    evaluation = folder / "runs" / "tiny" / "evaluate"
    before = (evaluation / "predictions" / "grounded_answers.jsonl").read_text(encoding="utf-8")
    count = len(before.splitlines())
    for kept in (folder / "runs" / "tiny" / ".answers").iterdir():
        kept.unlink()
    longer = "evaluate.max_new_tokens=9"
    killed = run(count + 1, longer)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = run(0, longer)
    assert again.stdout.split() == [str(count - 1), "True"], again.stderr
    whole = (evaluation / "predictions" / "grounded_answers.jsonl").read_text(encoding="utf-8")
    assert all(set(json.loads(line)["answers"]) == {"base", "tuned"} for line in whole.splitlines())

    gated = run(0, longer, "evaluate.gates=[tuned.token_f1 >= 0 with confidence 0.7]")
    assert gated.stdout.split() == ["0", "True"], gated.stderr
    assert (evaluation / "predictions" / "grounded_answers.jsonl").read_text(encoding="utf-8") == whole
    batch = run(0, longer, "evaluate.gates=[tuned.token_f1 >= 0 with confidence 0.7]", "evaluate.batch_size=1")
    assert batch.stdout.split() == ["0", "False"], batch.stderr
