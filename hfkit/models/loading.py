"""Loads causal models and tokenizers: embedded, from a folder, or from the Hub.

Weights are safetensors, unless the recipe says in words that pickled ones may be read. Code that comes with a model is
run only where the recipe says so, at one commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfkit.data.builtin_templates import BUILTIN, builtin_template
from hfkit.data.rendering import Renderer, SpecialTokens
from hfkit.errors import RequestError
from hfkit.models.embedded import PREFIX, embedded_model, fetch
from hfkit.models.precision import Resolved, resolve_precision
from hfkit.quiet import quiet_libraries
from hfkit.recipe.model import ModelSection

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Located:
    """Where a model's files come from: a local folder, or a Hub id at a revision."""

    path_or_id: str
    revision: str | None

    @property
    def is_local(self) -> bool:
        return Path(self.path_or_id).is_dir()


def locate(reference: str, revision: str | None = None) -> Located:
    """The place that `reference` (`embedded:NAME`, a folder, or a Hub id) means; embedded models are fetched.

    Raises:
        RequestError: an embedded name that does not exist, or what looks like a path and is not there.
    """
    if reference.startswith(PREFIX):
        return Located(str(fetch(embedded_model(reference))), None)
    if Path(reference).is_dir():
        return Located(reference, None)
    if reference.startswith((".", "/", "~")) or reference.count("/") > 1:
        raise RequestError(f"{reference}: no such folder, and a Hub id has the form owner/name")
    return Located(reference, revision)


def load_tokenizer(settings: ModelSection, *, chat: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template that training and inference both use; pads on the left.

    `chat` is False where only plain text is to be tokenised, and no chat template is needed.

    Raises:
        RequestError: the model cannot be had, or it has no chat template and the recipe names none.
    """
    from transformers import AutoTokenizer

    where = locate(settings.base, settings.revision)
    code = _code_allowed(settings, where)
    with quiet_libraries(), _explained(settings.base, where):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            where.path_or_id, revision=where.revision, trust_remote_code=code
        )
    if settings.chat_template is not None:
        tokenizer.chat_template = _named_template(str(settings.chat_template), tokenizer)
    if chat and tokenizer.chat_template is None:
        raise RequestError(
            f"{settings.base} has no chat template; name one in model.chat_template: a Jinja file, builtin:chatml or "
            "builtin:plain"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_renderer(settings: ModelSection, *, special_tokens: SpecialTokens = "escape", chat: bool = True) -> Renderer:
    """What renders conversations for this model, at training and at inference alike.

    Raises:
        RequestError: as `load_tokenizer`; the settings of generation cannot be read.
    """
    return Renderer(
        load_tokenizer(settings, chat=chat),
        settings.template_arguments,
        special_tokens=special_tokens,
        stop_ids=load_stop_ids(settings),
    )


def load_stop_ids(settings: ModelSection) -> tuple[int, ...]:
    """The tokens that end a reply by the model's own settings (`eos_token_id` in generation_config.json, or else in
    config.json), read without loading the model. None where the model names none.

    Raises:
        RequestError: a settings file is damaged.
    """
    where = locate(settings.base, settings.revision)
    for name in ("generation_config.json", "config.json"):
        written = _read_settings(settings.base, where, name)
        stops = written.get("eos_token_id") if isinstance(written, dict) else None
        if isinstance(stops, int):
            return (stops,)
        if isinstance(stops, list) and stops and all(isinstance(stop, int) for stop in stops):
            return tuple(stops)
    return ()


def _read_settings(reference: str, where: Located, name: str) -> Any:
    """The JSON in one of the model's files; None where there is no such file."""
    with _explained(reference, where):
        path = _settings_file(where, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{reference}: its {name} cannot be read: {error}") from error


def _settings_file(where: Located, name: str) -> Path | None:
    if where.is_local:
        path = Path(where.path_or_id) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(where.path_or_id, name, revision=where.revision))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def _named_template(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a template that a recipe names: a file's, or one that comes with hfkit."""
    if not name.startswith(BUILTIN):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"model.chat_template: {name} cannot be read: {error}") from error
    text = builtin_template(name)
    if tokenizer.eos_token is None:
        raise RequestError(f"model.chat_template: {name} ends replies with the tokenizer's eos_token, and it has none")
    start = tokenizer.bos_token_id
    begins = start is not None and list(tokenizer("a")["input_ids"])[:1] == [start]
    return "{{- bos_token -}}\n" + text if begins else text


def load_model(
    settings: ModelSection, *, master_weights: bool = False, on_cpu: bool = False
) -> tuple[PreTrainedModel, Resolved]:
    """The base model in the precision that the recipe and the hardware agree on, quantised if the recipe says so.

    `master_weights` keeps the weights in float32, for training them all: small updates would vanish in bfloat16.
    `on_cpu` leaves them in the machine's memory also where there is a GPU.

    Raises:
        RequestError: the model cannot be had, or holds no safetensors weights.
    """
    import torch

    precision = resolve_precision(settings.precision)
    dtype = torch.float32 if master_weights else precision.dtype
    on_gpu = torch.cuda.is_available() and not on_cpu
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
    return load_weights(settings, dtype, device, _quantization(settings, precision)), precision


def load_weights(
    settings: ModelSection,
    dtype: torch.dtype,
    device: torch.device | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """The base model with its weights in `dtype`, on `device` (None: the CPU).

    Raises:
        RequestError: the model cannot be had, or holds no safetensors weights.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    where = locate(settings.base, settings.revision)
    code = _code_allowed(settings, where)
    with quiet_libraries(), _explained(settings.base, where):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where.path_or_id,
            revision=where.revision,
            dtype=dtype,
            use_safetensors=not _reads_pickled(settings, where),
            trust_remote_code=code,
            quantization_config=quantization,
            device_map=None if device is None else {"": device},
            output_loading_info=True,
        )
        model: PreTrainedModel = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:
            # Transformers fills them with random numbers.
            raise ValueError(f"weights are missing, {missing[0]} among them")
    # Transformers does not say any longer which commit a name stood for; it never saves this.
    model.config._commit_hash = _commit(where)
    # What ships with a checkpoint (temperature, repetition penalty, …) would contradict greedy decoding: a reader that
    # is to quote must not be punished for repeating.
    shipped = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=shipped.bos_token_id, eos_token_id=shipped.eos_token_id, pad_token_id=shipped.pad_token_id
    )
    return model


def _quantization(settings: ModelSection, precision: Resolved) -> BitsAndBytesConfig | None:
    """NF4 with double quantisation as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314), or LLM.int8() (Dettmers et al.
    2022, arXiv:2208.07339)."""
    from transformers import BitsAndBytesConfig

    if settings.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if settings.quantization == "int8" else None


def _commit(where: Located) -> str | None:
    """The commit of the Hub's model in the cache that `where` means; None for a folder."""
    if where.is_local:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(where.path_or_id, "config.json", revision=where.revision)
    return Path(cached).parent.name if isinstance(cached, str) else None


def _reads_pickled(settings: ModelSection, where: Located) -> bool:
    """Whether the weights are unpickled: the recipe says that they may be, and the folder has nothing safer.

    What is trained from them is saved as safetensors. Transformers unpickles with torch.load(weights_only=True), which
    makes tensors and plain containers alone (https://docs.pytorch.org/docs/stable/notes/serialization.html).
    """
    if not settings.pickled_weights:
        return False
    return not where.is_local or not any(Path(where.path_or_id).glob("*.safetensors"))


def _code_allowed(settings: ModelSection, where: Located) -> bool:
    """Whether code that comes with the model may be run: the recipe says so, and it is the code of the pinned commit.

    Raises:
        RequestError: it would be code that no commit pins, in a folder or in another repository.
    """
    if not settings.trust_remote_code:
        return False
    if where.is_local:
        raise RequestError(
            f"model.trust_remote_code: {settings.base} is a folder, whose code no commit pins; name the Hub id instead"
        )
    for name in ("config.json", "tokenizer_config.json"):
        written = _read_settings(settings.base, where, name)
        named = json.dumps(written.get("auto_map", {})) if isinstance(written, dict) else ""
        if "--" in named:
            raise RequestError(
                f"model.trust_remote_code: {settings.base} takes code from another repository (auto_map in {name}), "
                "which model.revision does not pin; it is not run"
            )
    return True


@contextmanager
def _explained(reference: str, where: Located) -> Iterator[None]:
    """Turns what the libraries raise when a model cannot be had into one sentence that says what to do."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        # Transformers raises OSError for what cannot be found or read and the others for files that do not fit
        # together, or hold a list or a text where it wants something else; missing memory, and an OSError with an errno
        # (a full disk, say), have messages of their own.
        no_memory = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
        if no_memory or (isinstance(error, OSError) and error.errno is not None):
            raise
        if "custom code" in str(error) or "trust_remote_code" in str(error):
            # Their sentence has several lines and names an argument, not a key.
            raise RequestError(
                f"{reference}: the model comes with Python code of its own, which is run only where the recipe says "
                "model.trust_remote_code: true, pins model.revision to a full commit hash, and says allow_code: true"
            ) from error
        if _holds_pickled_weights(where) or "cannot be loaded with `safetensors`" in str(error):
            advice = (
                "its weights are pickled, and unpickling a file can run any code in it: have its author publish "
                "safetensors, or load it where you trust its author with use_safetensors=False and save it again with "
                "save_pretrained, which writes safetensors. To have them unpickled all the same, by PyTorch's "
                "restricted reader, say model.pickled_weights: true"
            )
        elif where.is_local:
            advice = "check that the folder holds config.json, tokenizer files and safetensors weights"
        else:
            advice = (
                "it is not in the local cache and the Hub did not give it: check the name and the connection, "
                "run `hf auth login` for a gated model, or use a local folder or an embedded model"
            )
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"{reference}: the model cannot be loaded; {advice}. ({reason})") from error


def _holds_pickled_weights(where: Located) -> bool:
    """Whether a folder has pickled weights and no others."""
    folder = Path(where.path_or_id)
    return where.is_local and not any(folder.glob("*.safetensors")) and any(folder.glob("pytorch_model*.bin"))
