"""A run's model as a GGUF file with a Modelfile beside it, verified before anybody sees it."""

from __future__ import annotations

from hfkit.export.gguf_check import check_gguf
from hfkit.export.gguf_file import write_gguf
from hfkit.export.llama_weights import open_tensors, read_shape
from hfkit.export.merged import TrainedModel, merged_model
from hfkit.export.modelfile import MODELFILE, UNTRANSLATED, modelfile
from hfkit.export.ollama_template import turn_template
from hfkit.export.result import ExportResult, GgufType
from hfkit.export.staging import Staging
from hfkit.export.vocabulary import READ_BY_TRANSFORMERS, read_vocabulary
from hfkit.models.loading import load_renderer
from hfkit.quiet import quiet_libraries


def export_gguf(trained: TrainedModel, kind: GgufType, staging: Staging) -> ExportResult:
    """Write `NAME-TYPE.gguf` and a Modelfile.

    Raises:
        RequestError: the model's architecture or its tokenizer is not exported; the adapter does not fit the base.
        WorkError: what was written is not the model when it is read again.
    """
    from transformers import AutoTokenizer

    settings, name = trained.settings, trained.name
    merged = merged_model(trained, staging.room / "merged")
    with quiet_libraries():
        shape = read_shape(merged.folder)
        tokenizer = AutoTokenizer.from_pretrained(merged.folder)
    # What ended a reply at training; a model trained on plain text has no chat template, and may have no such token.
    exported = settings.model_copy(update={"base": str(merged.folder), "revision": None, "chat_template": None})
    stops = load_renderer(exported, chat=False).stop_ids
    vocabulary = read_vocabulary(tokenizer, stops, shape.vocabulary)
    staging.folder.mkdir()
    path = staging.folder / f"{name}-{kind}.gguf"
    with open_tensors(merged.folder, shape) as tensors:
        write_gguf(path, name, kind, shape, tensors, vocabulary)
        check = check_gguf(path, kind, merged.folder, tensors, tokenizer, vocabulary)
    template = turn_template(tokenizer, settings.template_arguments)
    stop_texts = [vocabulary.tokens[stop] for stop in stops]
    text = modelfile(path.name, template, stop_texts, shape.context)
    (staging.folder / MODELFILE).write_text(text, encoding="utf-8")
    remarks = []
    if tokenizer.chat_template is not None and template is None:
        remarks.append(UNTRANSLATED)
    if vocabulary.splitting not in READ_BY_TRANSFORMERS:
        remarks.append(
            f"The tokenizer splits text as {vocabulary.splitting} does. llama.cpp does that too; Transformers does not "
            "when it reads a tokenizer from a GGUF file, so take the tokenizer of the safetensors there."
        )
    if settings.template_arguments:
        remarks.append(
            "The model was trained with model.template_arguments, which the template in the GGUF file does not hold: "
            f"give {dict(settings.template_arguments)} to whatever renders it. The Modelfile has them applied."
        )
    if len(stops) > 2:
        remarks.append(f"A GGUF file names two stop tokens; of {', '.join(stop_texts)} the Modelfile names all.")
    return ExportResult(
        format="gguf",
        source=name,
        source_fingerprint=trained.fingerprint,
        type=kind,
        merge_drift=merged.drift,
        gguf=check,
        remarks=tuple(remarks),
    )
