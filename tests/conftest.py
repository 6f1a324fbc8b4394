"""What the whole suite shares: a tiny model, a tiny embedder, a few documents, a recipe over them, the command line.

No test downloads anything. Each test works in a folder of its own, `workplace`, which is the working directory too:

    def test_something(tiny_recipe: RecipeWriter, cli: Cli) -> None:
        done = cli("run", tiny_recipe(train={"epochs": 1}), "--json")
        assert done.code == 0, done.err
        assert done.document["timings"]["train"] > 0

For the types, `if TYPE_CHECKING: from tests.conftest import Cli, RecipeWriter` in the test file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

# Before any library reads them. One thread: the models are tiny, and forked processes must find no thread pools.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import yaml

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Topics and what is said about them: no two documents share a sentence, so that none is dropped as contaminated.
DOCUMENTS: dict[str, dict[str, str]] = {
    "anchors.md": {
        "Anchors": "An anchor holds a ship to the ground of the harbour.",
        "Chain length": "A longer chain pulls the shank flatter and so grips better.",
        "Rusty links": "Every rusty link must be cut out before the next voyage.",
    },
    "bees.md": {
        "Bees": "A colony of bees has one queen and many thousand workers.",
        "Waggle dance": "The dance tells the others where the flowers stand.",
        "Winter cluster": "In winter the workers keep the queen warm with their bodies.",
    },
    "clocks.md": {
        "Clocks": "A pendulum clock counts swings of equal duration.",
        "Escapement": "The escapement lets one tooth pass at each swing.",
        "Temperature": "Warm rods grow longer and make the clock run slow.",
    },
    "dunes.md": {
        "Dunes": "Wind piles dry sand into dunes that wander slowly.",
        "Slip face": "Grains roll down the steep side when it grows too steep.",
        "Marram grass": "Grass with deep roots stops a wandering dune for good.",
    },
    "engines.md": {
        "Engines": "A steam engine turns heat into motion by pushing a piston.",
        "Governor": "Two spinning balls close the valve when the wheel turns too fast.",
        "Boiler scale": "Hard water leaves a crust that wastes half of the coal.",
    },
    "ferns.md": {
        "Ferns": "Ferns make spores and never bear any flower.",
        "Fiddleheads": "Young leaves unroll from the centre like a small spring.",
        "Shade": "Most kinds wilt within a day of full summer sun.",
    },
    "glass.md": {
        "Glass": "Glass is sand that was melted together with soda and lime.",
        "Annealing": "Slow cooling over several hours takes out the inner tension.",
        "Colour": "A trace of cobalt makes the whole melt deep blue.",
    },
    "harps.md": {
        "Harps": "A concert harp carries forty seven strings over a wooden frame.",
        "Pedals": "Seven pedals raise the pitch of all strings of one name.",
        "Tuning": "New strings stretch for a week and must be tuned daily.",
    },
}


@dataclass(frozen=True)
class Done:
    """What a finished `hfkit` process said. A negative code is the signal that ended it."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output, and nothing else there. NaN is no JSON."""
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


class Started(Protocol):
    """An `hfkit` process at work."""

    pid: int

    def running(self) -> bool: ...
    def kill(self, number: int = signal.SIGKILL) -> None: ...
    def wait(self) -> Done: ...


class Cli(Protocol):
    """`cli("run", recipe, "--json")` waits for the process; `cli.start(...)` does not. Arguments are made text."""

    def __call__(self, *arguments: object, env: Mapping[str, str] | None = None) -> Done: ...
    def start(self, *arguments: object, env: Mapping[str, str] | None = None) -> Started: ...


class Ranks(Protocol):
    """`ranks(2, "train", recipe)` starts as many `hfkit` processes that know of each other, as a launcher does."""

    def __call__(self, count: int, *arguments: object) -> list[Started]: ...


class RecipeWriter(Protocol):
    """Writes the tiny recipe, merged with the sections given (None takes one out), and returns its path."""

    def __call__(self, file: str = "tiny.yaml", **sections: Any) -> Path: ...


def pytest_configure(config: pytest.Config) -> None:
    """Tests import `rag`, `hfkit` and `apps` from the checkout that they lie in, whatever is installed."""
    # A suite that was started in the background inherits a SIGINT that is ignored, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = str(Path(__file__).resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


def wait_until(true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Polls every 2 ms; fails after far longer than anything here takes."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.002)


@pytest.fixture(scope="session")
def patiently() -> Callable[..., None]:
    """`patiently(condition, "what is waited for")`."""
    return wait_until


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 2 layers, a byte-level BPE tokenizer and a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "tiny-model"
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(_all_texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers as a sentence-transformers model: 32 dimensions, 128 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    parts = tmp_path_factory.mktemp("tiny-parts")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        _all_texts(), trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", special.index("[CLS]")), ("[SEP]", special.index("[SEP]"))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )
    tokenizer.save_pretrained(parts)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(parts)
    folder = tmp_path_factory.mktemp("tiny") / "tiny-embedder"
    transformer = Transformer(str(parts), max_seq_length=128)
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(str(folder))
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the working directory for as long as the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def documents(workplace: Path) -> Path:
    """The folder `docs/` of the workplace: eight Markdown documents of three sections each."""
    return _write_documents(workplace)


@pytest.fixture
def tiny_recipe(workplace: Path, documents: Path, tiny_model: Path, tiny_embedder: Path) -> RecipeWriter:
    """Every stage on the tiny models, in seconds: 24 rows, about 10 steps with a checkpoint at each second one."""
    defaults = _recipe_of(tiny_model, tiny_embedder)

    def write(file: str = "tiny.yaml", **sections: Any) -> Path:
        return _write_recipe(workplace / file, _merged(defaults, sections))

    return write


@pytest.fixture
def finished(workplace: Path, tiny_recipe: RecipeWriter, _finished_runs: Path) -> Path:
    """The path of the tiny recipe as `tiny_recipe()` writes it, with its finished run in `runs/tiny/`."""
    shutil.copytree(_finished_runs, workplace / "runs")
    return tiny_recipe()


@pytest.fixture(scope="session")
def _finished_runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_embedder: Path, _fork_server: _ForkServer
) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    _write_documents(folder)
    recipe = _write_recipe(folder / "tiny.yaml", _recipe_of(tiny_model, tiny_embedder))
    done = _WarmCli(folder, _fork_server)("run", recipe)
    assert done.code == 0, done.err
    return folder / "runs"


@pytest.fixture
def cold_cli(workplace: Path) -> Cli:
    """`python -m hfkit` as a user starts it. Costs seconds of imports each time: `cli` does the same in less."""
    return _ColdCli(workplace)


@pytest.fixture
def cli(workplace: Path, _fork_server: _ForkServer) -> Cli:
    """`hfkit` in a process of its own, forked from one that has imported the libraries and computed nothing."""
    return _WarmCli(workplace, _fork_server)


@pytest.fixture
def ranks(cli: Cli) -> Ranks:
    """Unlike a launcher it ends no process because another one failed."""

    def start(count: int, *arguments: object) -> list[Started]:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [
            cli.start(*arguments, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)
        ]

    return start


@pytest.fixture(scope="session")
def _fork_server() -> Iterator[_ForkServer]:
    server = _ForkServer()
    yield server
    server.close()


def _all_texts() -> list[str]:
    return [_markdown(sections) for sections in DOCUMENTS.values()]


def _markdown(sections: Mapping[str, str]) -> str:
    title, *rest = sections
    parts = [f"# {title}\n\n{sections[title]}", *(f"## {heading}\n\n{sections[heading]}" for heading in rest)]
    return "\n\n".join(parts) + "\n"


def _write_documents(workplace: Path) -> Path:
    folder = workplace / "docs"
    folder.mkdir()
    for name, sections in DOCUMENTS.items():
        (folder / name).write_text(_markdown(sections), encoding="utf-8")
    return folder


def _recipe_of(tiny_model: Path, tiny_embedder: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "seed": 7,
        "model": {"base": str(tiny_model), "precision": "fp32", "adapter": {"rank": 4, "alpha": 8}},
        "rag": {
            "documents": ["docs/"],
            "embedder": str(tiny_embedder),
            "chunk": {"tokens": 64, "overlap": 8},
            "search": {"top_k": 3},
        },
        "data": {
            "sources": [{"synthesize": {"questions": 3, "passages": 2}}],
            "splits": {"test": 0.25},
            "max_length": 1024,
        },
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 2.0e-2, "save_steps": 2, "log_steps": 1},
        "evaluate": {"tasks": ["grounded_answers"], "max_new_tokens": 8, "batch_size": 8},
        # Another process with libraries of its own, which would take longer to start than all of this training.
        "track": [],
    }


def _write_recipe(path: Path, sections: Mapping[str, Any]) -> Path:
    present = {key: value for key, value in sections.items() if value is not None}
    path.write_text(yaml.safe_dump(present, sort_keys=False), encoding="utf-8")
    return path


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


class _ColdCli:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: object, env: Mapping[str, str] | None = None) -> Done:
        return self.start(*arguments, env=env).wait()

    def start(self, *arguments: object, env: Mapping[str, str] | None = None) -> Started:
        return _ColdProcess(
            subprocess.Popen(
                [sys.executable, "-m", "hfkit", *map(str, arguments)],
                cwd=self.folder,
                env=os.environ | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )


class _ColdProcess:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self.pid = process, process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)

    def wait(self) -> Done:
        out, err = self._process.communicate()
        return Done(self._process.returncode, out, err)


# Imports what a run imports and computes nothing, so that a fork finds no threads. A line of JSON in asks for a
# process, a line out gives its number. A second line asks how it stands: its exit code, or null while it works.
_SERVER = """
import json, os, sys
import datasets, faiss, peft, pyarrow.parquet, sentence_transformers, tokenizers, torch, transformers
import hfkit.cli, hfkit.data.prepare, hfkit.evaluation.evaluate, hfkit.indexing
import hfkit.training.sft, hfkit.training.callbacks, hfkit.training.validation, hfkit.training.loss_plot
import hfkit.evaluation.generation, matplotlib.figure, matplotlib.backends.backend_agg
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer, BertModel, LlamaForCausalLM, TrainingArguments

def child(request):
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for name, number in (("/dev/null", 0), (request["out"], 1), (request["err"], 2)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o644), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    code = 70
    try:
        code = hfkit.cli.main(request["arguments"])
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)

ended = {}
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "pid" in request:
        pid = request["pid"]
        if pid not in ended:
            found, status = os.waitpid(pid, 0 if request["wait"] else os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
        print(json.dumps(ended.get(pid)), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        child(request)
    print(json.dumps(pid), flush=True)
"""


class _ForkServer:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the libraries do not import"

    def ask(self, request: Mapping[str, object]) -> int | None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer: int | None = json.loads(self._process.stdout.readline())
            return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class _WarmCli:
    def __init__(self, folder: Path, server: _ForkServer) -> None:
        self.folder, self.server = folder, server
        self.started = 0

    def __call__(self, *arguments: object, env: Mapping[str, str] | None = None) -> Done:
        return self.start(*arguments, env=env).wait()

    def start(self, *arguments: object, env: Mapping[str, str] | None = None) -> Started:
        self.started += 1
        said = self.folder / ".said"
        said.mkdir(exist_ok=True)
        out, err = said / f"{self.started}.out", said / f"{self.started}.err"
        # A process that is killed at once opens neither.
        out.touch()
        err.touch()
        pid = self.server.ask(
            {
                "cwd": str(self.folder),
                "arguments": [str(argument) for argument in arguments],
                "env": dict(env or {}),
                "out": str(out),
                "err": str(err),
            }
        )
        assert pid is not None
        return _WarmProcess(pid, self.server, out, err)


class _WarmProcess:
    def __init__(self, pid: int, server: _ForkServer, out: Path, err: Path) -> None:
        self.pid, self._server, self._out, self._err = pid, server, out, err

    def running(self) -> bool:
        return self._server.ask({"pid": self.pid, "wait": False}) is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Done:
        code = self._server.ask({"pid": self.pid, "wait": True})
        assert code is not None
        return Done(code, self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8"))
