"""The snippet of a model card: the shortest program that loads what was published and gets a reply from it."""

from __future__ import annotations

import json

from hfkit.hub.facts import RunFacts
from rag.answer import Passage, grounded_messages

_PASSAGES = (
    Passage(("Lighthouse", "History"), "The lighthouse was built in 1871 from local granite."),
    Passage(("Lighthouse", "Visiting"), "The tower is open from May to September, from ten to four."),
)
_QUESTION = "When was the lighthouse built?"


def usage_snippet(facts: RunFacts) -> str:
    """Python that prints a reply, with the prompt that the model was trained on."""
    arguments = _template_arguments(facts)
    repo = f'"{facts.hub.repo}"' + ("" if facts.revision is None else f', revision="{facts.revision}"')
    # The base's code is that of the commit which the adapter's settings name.
    code = ", trust_remote_code=True" if facts.model.trust_remote_code else ""
    lines = [_messages(facts), ""]
    if facts.publishes_adapter:
        lines = [
            "from peft import AutoPeftModelForCausalLM",
            "from transformers import AutoTokenizer",
            "",
            f"model = AutoPeftModelForCausalLM.from_pretrained({repo}{code})",
            f"tokenizer = AutoTokenizer.from_pretrained({repo})",
            "",
            *lines,
            "inputs = tokenizer.apply_chat_template(",
            f'    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"{arguments}',
            ")",
            "output = model.generate(**inputs, max_new_tokens=100, do_sample=False)",
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    else:
        lines = [
            "from transformers import pipeline",
            "",
            f'generate = pipeline("text-generation", model={repo})',
            "",
            *lines,
            "reply = generate(",
            f"    messages, max_new_tokens=100, do_sample=False, return_full_text=False{_tokenizer(facts)}",
            ")",
            'print(reply[0]["generated_text"])',
        ]
    return "\n".join(lines) + "\n"


def _messages(facts: RunFacts) -> str:
    messages = (
        grounded_messages(_QUESTION, _PASSAGES)
        if facts.is_grounded
        else [{"role": "user", "content": "Here stands your question."}]
    )
    written = [f"    {json.dumps(dict(message), ensure_ascii=False)}," for message in messages]
    return "\n".join(["messages = [", *written, "]"])


def _template_arguments(facts: RunFacts) -> str:
    """What the chat template was given in training beside the messages."""
    given = facts.model.template_arguments
    return "".join(f", {name}={value!r}" for name, value in given.items())


def _tokenizer(facts: RunFacts) -> str:
    given = dict(facts.model.template_arguments)
    return f", tokenizer_encode_kwargs={given!r}" if given else ""
