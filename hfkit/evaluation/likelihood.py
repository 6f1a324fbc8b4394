"""How likely a model finds given text: replies, choices, whole texts. Agrees with lm-evaluation-harness.

Text without a chat template is cut into tokens as the harness does it: context and continuation together, spaces at
their border counted to the continuation (lm_eval.api.model, `_encode_pair`), and long texts in windows that each
predict as many tokens as fit (lm_eval.utils, `get_rolling_token_windows`). With one difference: a long text is cut
without special tokens, so that a start token that a tokenizer adds by itself is not scored as if it were text.

Replies to messages are rendered as training renders them, the stop token at their end included: what is scored is the
whole reply, not the beginning of a longer one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isinf, isnan
from typing import TYPE_CHECKING, Literal

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.ledger import RowFault
from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.evaluation.generation import NAN
from hfkit.evaluation.kv_cache import Cached, can_share, context_limit, last_logits, read
from hfkit.evaluation.rows import ChoiceRow, Failed, Likelihood, Likelihoods, PreferenceRow, TextRow
from hfkit.evaluation.shared_prefixes import PrefixReader, Shared, plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LikelihoodRow = ChoiceRow | TextRow | PreferenceRow

INFINITE = "the model gives a token of the text a probability of 0, so its log-likelihood is no number"

_READ_TOGETHER = 16

_LOGITS_AT_ONCE = 64 * 2**20
"""How many logits are computed at a time beyond one position a row: 256 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Scored:
    """`continuation` is what is scored, behind `context`, which has at least one token."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    log_likelihood: float
    is_greedy: bool


def likelihoods_each(
    model: PreTrainedModel, renderer: Renderer, rows: Sequence[LikelihoodRow], *, batch_size: int | Literal["auto"]
) -> Iterator[tuple[int, Likelihoods | Failed]]:
    """The likelihoods that each row asks for, with the row's number, as soon as they are there; in no order."""
    model.eval()
    together = _READ_TOGETHER if batch_size == "auto" else batch_size
    limit = context_limit(model)
    parts: list[Scored] = []
    # For each row, for each text that it scores: its length in bytes, and the numbers of its parts.
    texts: dict[int, list[tuple[int, list[int]]]] = {}
    for number, row in enumerate(rows):
        try:
            found = scored_parts(renderer, row, limit)
        except (RowFault, RequestError) as error:
            yield number, Failed(reason=str(error))
            continue
        texts[number] = []
        for size, pieces in found:
            texts[number].append((size, list(range(len(parts), len(parts) + len(pieces)))))
            parts += pieces
    done: dict[int, _Found] = {}
    waiting = {number: {part for _, pieces in asked for part in pieces} for number, asked in texts.items()}
    row_of = {part: number for number, asked in waiting.items() for part in asked}
    for number in [number for number, asked in waiting.items() if not asked]:
        yield number, Likelihoods(of=tuple(_of(size, [], []) for size, _ in texts[number]))
    for part, one in _score_each(model, parts, together):
        done[part] = one
        number = row_of[part]
        waiting[number].discard(part)
        if not waiting[number]:
            yield number, _answer(texts[number], parts, done)


def scored_parts(renderer: Renderer, row: LikelihoodRow, limit: int | None) -> list[tuple[int, list[Scored]]]:
    """What is scored of a row: for each text its length in UTF-8, and its parts, of at most `limit` tokens each.

    Raises:
        RowFault, RequestError: the chat template refuses the messages.
    """
    match row:
        case TextRow():
            return [(_bytes(row.text), windows(renderer, row.text, limit))]
        case PreferenceRow():
            replies: tuple[str, ...] = (row.chosen, row.rejected)
        case ChoiceRow():
            replies = row.choices
    if row.messages:
        pairs = _replies(renderer, row.messages, replies)
    else:
        context = row.context if isinstance(row, ChoiceRow) else ""
        pairs = [continuation(renderer, context, reply) for reply in replies]
    return [(_bytes(reply), [_cut(pair, limit)]) for reply, pair in zip(replies, pairs, strict=True)]


def continuation(renderer: Renderer, context: str, text: str) -> Scored:
    """`text` behind the plain text `context`; behind the start token, or else the end token, where that is empty."""
    tokenizer = renderer.tokenizer
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, text = context[:-spaces], context[-spaces:] + text
    if not context:
        return Scored((_start(renderer),), tuple(tokenizer.encode(text, add_special_tokens=False)))
    before = tokenizer.encode(context)
    return Scored(tuple(before), tuple(tokenizer.encode(context + text)[len(before) :]))


def windows(renderer: Renderer, text: str, limit: int | None) -> list[Scored]:
    """`text` in parts, each token scored once. All parts but the first and the last have one token of context; the
    last has as many as the model can take."""
    ids = [_start(renderer), *renderer.tokenizer.encode(text, add_special_tokens=False)]
    most = len(ids) if limit is None else limit
    parts = []
    for begin in range(1, len(ids), most):
        end = min(begin + most, len(ids))
        parts.append(Scored(tuple(ids[max(end - most - 1, 0) : begin]), tuple(ids[begin:end])))
    return parts


def _replies(renderer: Renderer, messages: Sequence[Turn], replies: Sequence[str]) -> list[Scored]:
    asked = tuple(turn.model_copy(update={"train": False}) for turn in messages)
    conversations = [
        Conversation(id="", document="", messages=(*asked, Turn(role="assistant", content=reply))) for reply in replies
    ]
    pairs = []
    for rendered in renderer.render_many(conversations):
        if isinstance(rendered, RowFault):
            raise rendered
        ((start, end),) = rendered[0].spans
        pairs.append(Scored(rendered[0].input_ids[:start], rendered[0].input_ids[start:end]))
    return pairs


def _cut(pair: Scored, limit: int | None) -> Scored:
    """The pair without the beginning that does not fit: the last token is only predicted, and needs no place."""
    surplus = 0 if limit is None else len(pair.context) + len(pair.continuation) - limit - 1
    if surplus <= 0:
        return pair
    if surplus >= len(pair.context):
        raise RowFault("what is to be scored is longer than the model's context", f"{len(pair.continuation)} tokens")
    return Scored(pair.context[surplus:], pair.continuation)


def _start(renderer: Renderer) -> int:
    tokenizer = renderer.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not isinstance(start, int):
        raise RequestError("the tokenizer has neither a start nor an end token for a text to begin behind")
    return start


def _bytes(text: str) -> int:
    return len(text.encode("utf-8"))


def _of(size: int, pieces: Sequence[_Found], parts: Sequence[Scored]) -> Likelihood:
    return Likelihood(
        log_likelihood=sum(one.log_likelihood for one in pieces),
        tokens=sum(len(part.continuation) for part in parts),
        bytes=size,
        is_greedy=all(one.is_greedy for one in pieces),
    )


def _answer(
    texts: Sequence[tuple[int, Sequence[int]]], parts: Sequence[Scored], done: dict[int, _Found]
) -> Likelihoods | Failed:
    answer = tuple(
        _of(size, [done[part] for part in pieces], [parts[part] for part in pieces]) for size, pieces in texts
    )
    if any(isnan(one.log_likelihood) for one in answer):
        return Failed(reason=NAN)
    if any(isinf(one.log_likelihood) for one in answer):
        return Failed(reason=INFINITE)
    return Likelihoods(of=answer)


def _score_each(model: PreTrainedModel, parts: Sequence[Scored], batch_size: int) -> Iterator[tuple[int, _Found]]:
    """Score every part. Parts with the same context read it once, where the model allows."""
    shares = can_share(model)
    same: dict[tuple[int, ...], list[int]] = {}
    alone: list[int] = []
    for number, part in enumerate(parts):
        if not part.continuation:
            yield number, _Found(0.0, True)
        # A window of a long text shares nothing, and its short context is worth no pass of its own.
        elif not shares or len(part.continuation) >= len(part.context):
            alone.append(number)
        else:
            same.setdefault(part.context, []).append(number)
    yield from _score_alone(model, parts, alone, batch_size)
    if same:
        contexts = list(same)
        batches = plan(contexts, batch_size, share=True)
        reader = PrefixReader(model, contexts, batches)
        for batch in batches.batches:
            yield from _score_behind(model, reader, batch, [same[contexts[row]] for row in batch.rows], parts)


def _score_behind(
    model: PreTrainedModel,
    reader: PrefixReader,
    batch: Shared,
    members: Sequence[Sequence[int]],
    parts: Sequence[Scored],
) -> Iterator[tuple[int, _Found]]:
    """Score `members[row]`, the parts behind each context of a batch."""
    import torch

    with torch.inference_mode():
        cached, logits = reader.read(batch)
        first: dict[int, tuple[float, bool]] = {}
        for place, numbers in enumerate(members):
            probabilities = logits[place].log_softmax(dim=-1)
            best = int(probabilities.argmax())
            for number in numbers:
                token = parts[number].continuation[0]
                first[number] = (float(probabilities[token]), best == token)
    longer: list[tuple[int, int]] = []
    for place, numbers in enumerate(members):
        for number in numbers:
            if len(parts[number].continuation) == 1:
                yield number, _Found(*first[number])
            else:
                longer.append((place, number))
    longer.sort(key=lambda one: -len(parts[one[1]].continuation))
    while longer:
        length = len(parts[longer[0][1]].continuation) - 1
        count = max(1, _LOGITS_AT_ONCE // (length * logits.shape[-1]))
        now, longer = longer[:count], longer[count:]
        yield from _score_rest(model, cached, now, first, parts)


def _score_rest(
    model: PreTrainedModel,
    cached: Cached,
    now: Sequence[tuple[int, int]],
    first: dict[int, tuple[float, bool]],
    parts: Sequence[Scored],
) -> Iterator[tuple[int, _Found]]:
    """Add to the scores of first tokens those of the tokens behind; `now` has (row of `cached`, part) pairs."""
    import torch

    blocks = [parts[number].continuation[:-1] for _, number in now]
    with torch.inference_mode():
        _, logits = read(model, blocks, cached.copied([place for place, _ in now]), keep=max(map(len, blocks)))
        for place, (_, number) in enumerate(now):
            rest = _sum(logits[place], parts[number].continuation[1:])
            before, is_greedy = first[number]
            yield number, _Found(before + rest.log_likelihood, is_greedy and rest.is_greedy)


def _score_alone(
    model: PreTrainedModel, parts: Sequence[Scored], numbers: Sequence[int], batch_size: int
) -> Iterator[tuple[int, _Found]]:
    """Score parts one pass each, whatever they share."""
    import torch

    order = sorted(numbers, key=lambda number: -(len(parts[number].context) + len(parts[number].continuation)))
    vocabulary = model.config.get_text_config().vocab_size
    while order:
        length = max(len(parts[number].continuation) for number in order[:batch_size])
        count = max(1, min(batch_size, _LOGITS_AT_ONCE // (length * vocabulary)))
        now, order = order[:count], order[count:]
        sequences = [(*parts[number].context, *parts[number].continuation[:-1]) for number in now]
        keep = max(len(parts[number].continuation) for number in now)
        with torch.inference_mode():
            logits = last_logits(model, sequences, keep=keep)
            found = [_sum(logits[place], parts[number].continuation) for place, number in enumerate(now)]
        yield from zip(now, found, strict=True)


def _sum(logits: torch.Tensor, tokens: Sequence[int]) -> _Found:
    """The likelihood of `tokens` by the last rows of `logits`, [at least len(tokens), V]."""
    import torch

    wanted = torch.tensor(tokens, device=logits.device)
    log_probabilities = logits[-len(tokens) :].log_softmax(dim=-1)
    total = log_probabilities.gather(1, wanted[:, None]).sum()
    return _Found(float(total), bool((log_probabilities.argmax(dim=-1) == wanted).all()))
