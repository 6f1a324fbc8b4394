"""The gates that look at one example: empty and misplaced turns, invalid Unicode, addresses and secrets; and the card's
figures on labels and lengths."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfkit.data.conversation import Conversation, Grounding, Turn
from hfkit.data.distribution import imbalance, label_counts, length_outliers
from hfkit.data.examples import (
    Example,
    LabelledText,
    PlainText,
    Preference,
    RatedReply,
    RetrievalExample,
    TextPair,
)
from hfkit.data.formats.turns import assistant, user
from hfkit.data.personal import find_emails, find_secrets
from hfkit.data.quality import EMAIL, EMPTY, ORDER, SECRET, UNICODE, examine
from hfkit.data.texts import every_text, with_texts
from hfkit.recipe.data import QualitySection

DEFAULT = QualitySection()
CALL = Turn.model_validate({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": "y"}}}]})
TOOL = Turn(role="tool", content="12")
SYSTEM = Turn(role="system", content="Be kind.")


def talk(*turns: Turn) -> Conversation:
    return Conversation(id="f:1", document="f:1", messages=turns)


def text(content: str) -> PlainText:
    return PlainText(id="f:1", document="f:1", text=content)


def reason(example: Example, settings: QualitySection = DEFAULT) -> str | None:
    examined = examine(example, settings)
    assert (examined.example is None) == bool(examined.dropped)
    return examined.dropped[0][0] if examined.dropped else None


def kept_text(example: PlainText, settings: QualitySection) -> str:
    examined = examine(example, settings)
    assert isinstance(examined.example, PlainText)
    assert len(examined.noted) == 1
    return examined.example.text


@pytest.mark.parametrize(
    "turns",
    [
        (user("a"), assistant("b")),
        (SYSTEM, user("a"), assistant("b"), user("c"), assistant("d")),
        (SYSTEM, Turn(role="developer", content="x"), user("a"), assistant("b")),
        (user("a"), CALL, TOOL, TOOL, CALL, TOOL, assistant("b")),
        (user("a"), CALL, Turn(role="tool", content=""), assistant("b")),
        # Calls that are written out in the text of the turn.
        (user("a"), assistant("<call>"), TOOL, assistant("b")),
        (user("a"), CALL),
    ],
)
def test_turns_in_order_pass_unchanged(turns: tuple[Turn, ...]) -> None:
    example = talk(*turns)

    examined = examine(example, DEFAULT)

    assert examined.example is example
    assert (examined.dropped, examined.noted) == ((), ())


@pytest.mark.parametrize(
    ("turns", "detail"),
    [
        ((assistant("a"),), "messages.0: the assistant's turn at the beginning"),
        ((SYSTEM, assistant("a")), "messages.1: the assistant's turn after the system's"),
        ((user("a"), user("b"), assistant("c")), "messages.1: the user's turn after the user's"),
        ((user("a"), assistant("b"), assistant("c")), "messages.2: the assistant's turn after the assistant's"),
        ((user("a"), SYSTEM, assistant("b")), "messages.1: the system's turn after the user's"),
        ((user("a"), TOOL, assistant("b")), "messages.1: the tool's turn after the user's"),
        ((user("a"), CALL, user("b"), assistant("c")), "messages.2: the user's turn after the assistant's"),
        ((user("a"), CALL, TOOL, user("b"), assistant("c")), "messages.3: the user's turn after the tool's"),
    ],
)
def test_turns_in_the_wrong_order_are_dropped(turns: tuple[Turn, ...], detail: str) -> None:
    assert examine(talk(*turns), DEFAULT).dropped == ((ORDER, detail),)


@pytest.mark.parametrize(
    "example",
    [
        talk(user(" \n"), assistant("a")),
        talk(user("a"), assistant("")),
        talk(user("a"), Turn(role="assistant", content="", reasoning_content="Hm.")),
        text("\n"),
        Preference(id="1", document="1", prompt=(user("a"),), chosen=(assistant("b"),), rejected=(assistant(""),)),
        RatedReply(id="1", document="1", prompt=(user("a"),), completion=(assistant(" "),), wanted=True),
        LabelledText(id="1", document="1", text=" ", label=1),
        LabelledText(id="1", document="1", text="a", second_text="", label=1),
        TextPair(id="1", document="1", first="a", second=""),
        RetrievalExample(id="1", document="1", query="a", positives=("b", " ")),
    ],
)
def test_empty_turns_and_texts_are_dropped(example: Example) -> None:
    assert reason(example) == EMPTY


def test_an_empty_system_prompt_is_left_out_and_noted() -> None:
    examined = examine(talk(Turn(role="system", content=" "), user("a"), assistant("b")), DEFAULT)

    assert examined.example == talk(user("a"), assistant("b"))
    assert [what for what, _ in examined.noted] == ["an empty system prompt, left out"]


@pytest.mark.parametrize(
    "broken",
    ["\x00", "\x0b", "\x1b", "\x7f", "\x85", "\ud83d", "\ufffd", "\ufdd0", "\uffff", "\U0001fffe", "\U0010ffff"],
)
def test_invalid_unicode_is_dropped_or_replaced(broken: str) -> None:
    assert reason(text(f"a{broken}b")) == UNICODE
    assert f"U+{ord(broken):04X}" in examine(text(f"a{broken}b"), DEFAULT).dropped[0][1]

    assert kept_text(text(f"a{broken}{broken}b"), QualitySection(invalid_unicode="replace")) == "a b"


@pytest.mark.parametrize(
    "good", ["a\tb\r\nc", "é", "e\u0301", "日本語", "👩‍👩‍👧", "\u200b", "\u202e", "\ufeff", "\ue000"]
)
def test_valid_unicode_is_left_alone(good: str) -> None:
    assert reason(text(f"a{good}b")) is None


def test_what_no_model_sees_is_looked_at_too() -> None:
    example = PlainText(id="1", document="\ud800", text="a", metadata={"k": "\ud800", "n": 1})

    assert reason(example) == UNICODE
    mended = examine(example, QualitySection(invalid_unicode="replace")).example
    assert mended == PlainText(id="1", document=" ", text="a", metadata={"k": " ", "n": 1})


def test_a_text_of_nothing_but_broken_characters_is_empty_once_mended() -> None:
    assert reason(text("\x00\x01"), QualitySection(invalid_unicode="replace")) == EMPTY


def test_broken_characters_are_found_in_calls_and_tools() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": ["a\x00"]}}}]}
    assert reason(talk(user("a"), Turn.model_validate(call))) == UNICODE
    tools = Conversation(id="1", document="1", messages=(user("a"), assistant("b")), tools=({"\x00": "x"},))
    assert reason(tools) == UNICODE


# Made up here, in the form of the real ones.
SECRETS = [
    "AKIA" + "QWERTYUIOP234567",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2c3" * 10,
    "glpat-" + "aB3dE6gH9jK2mN5pQ8sT",
    "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567",
    "sk-" + "aB3dE6gH9jK2" * 4,
    "sk-proj-" + "aB3dE6gH9jK2" * 4,
    "xoxb-" + "2345678901-2345678901-aBcDeFgHiJkLmNoP",
    "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "sk_live_" + "a1B2c3D4e5F6g7H8",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7" * 12 + "\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\\n" + "MIIEpAIBAAKCAQEA7" * 12,
]


@pytest.mark.parametrize("secret", SECRETS)
def test_tokens_and_keys_are_redacted_whole(secret: str) -> None:
    assert kept_text(text(f"Use {secret} here"), QualitySection(secrets="redact")).split() == [
        "Use",
        "[secret]",
        "here",
    ]


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ('password = "kT9#vq2Lm4xZ"', 'password = "[secret]"'),
        ("{'api_key': 'f3a9c1d8e7b2465f9c0d'}", "{'api_key': '[secret]'}"),
        ("DB_PASSWORD=x7Kp9Qm2Zt4Vw8Ls", "DB_PASSWORD=[secret]"),
        ("postgres://app:h7Kp9Qm2@db.local/x", "postgres://app:[secret]@db.local/x"),
        ("Authorization: Bearer x7Kp9Qm2Zt4Vw8Ls3Rj6", "Authorization: Bearer [secret]"),
    ],
)
def test_of_an_assignment_only_the_value_is_redacted(written: str, left: str) -> None:
    assert kept_text(text(written), QualitySection(secrets="redact")) == left


@pytest.mark.parametrize(
    "harmless",
    [
        "password = getpass.getpass()",
        'password = "your-password-here1"',
        "api_key = os.environ['API_KEY_2']",
        "token = tokenizer.convert_ids_to_tokens(5)",
        'secret_key = "${SECRET_KEY_2}"',
        "X509_PUBKEY = X509_pubkey_st",
        'token="https://host/path1"',
        "key: primary_key_1",
        'class="sk-fading-circle sk-circle-bounce-delay-animation-long-name"',
        "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "commit 1190d5a0c4b3e2f1a09988776655443322110000",
        "-----BEGIN PRIVATE KEY----- is how such a file begins.",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----",
        "AKIAIOSFODNN7EXAMPLE",
        "https://user:password@host.org/",
        "uuid = '123e4567-e89b-12d3-a456-426614174000'",
        "git@github.com:owner/repository.git",
        "icon@2x.png and @app.route and lodash@4.17.21",
        "Write to somebody@example.com or x@host.test.",
        "matrix @ vector.T",
    ],
)
def test_ordinary_code_holds_no_secrets_and_no_addresses(harmless: str) -> None:
    assert find_secrets(harmless) == []
    assert find_emails(harmless) == []


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("Write to ada.l@math.org.", "Write to [e-mail]."),
        ("<jo+news@mail.co.uk>, 'x_1@y.de'", "<[e-mail]>, '[e-mail]'"),
        ("mailto:jo@mail.fr?subject=x", "mailto:[e-mail]?subject=x"),
        ("a@b.org@c.org", "[e-mail]@c.org"),
        ("José@correo.es", "[e-mail]"),
    ],
)
def test_addresses_are_redacted(written: str, left: str) -> None:
    assert kept_text(text(written), QualitySection(emails="redact")) == left


def test_redaction_reaches_every_text_of_a_row() -> None:
    mail = "jo@mail.fr"
    call = {"function": {"name": "send", "arguments": {"to": [mail], mail: 1}}}
    turns = (
        user(f"Ask {mail}"),
        Turn.model_validate({"role": "assistant", "reasoning_content": mail, "tool_calls": [call]}),
    )
    example = Conversation(
        id="1", document="1", messages=turns, tools=({"x": mail},), grounding=Grounding(question=mail, gold=None)
    )

    redacted = examine(example, QualitySection(emails="redact")).example

    assert redacted is not None
    assert mail not in redacted.model_dump_json()
    assert redacted.model_dump_json().count("[e-mail]") == 6


@pytest.mark.parametrize("gates", [{"emails": "redact"}, {"emails": "drop"}, {"secrets": "redact"}], ids=str)
def test_a_group_is_told_from_others_and_names_nobody(gates: dict[str, str]) -> None:
    private = "ann@firm.org" if "emails" in gates else "AKIAQ2W3E4R5T6Y7U2I3"
    settings = QualitySection.model_validate(gates)

    def group(name: str, settings: QualitySection = settings) -> str:
        kept = examine(PlainText(id="f:1", document=name, text="a"), settings).example
        assert kept is not None
        return kept.document

    assert private not in group(private) and group(private) == group(private)
    assert group(private) != group(f"{private}/2")
    assert group("customer 12") == "customer 12"
    assert group(private, DEFAULT) == private
    assert [reason for reason, _ in examine(PlainText(id="1", document=private, text="a"), settings).noted] == [
        "a group with an e-mail address or a secret in its name, which is kept as a hash"
    ]


def test_rows_with_addresses_or_secrets_are_dropped_or_kept() -> None:
    mail, secret = text("jo@mail.fr"), text(SECRETS[0])
    assert (reason(mail), reason(secret)) == (None, None)
    assert reason(mail, QualitySection(emails="drop")) == EMAIL
    assert reason(secret, QualitySection(secrets="drop")) == SECRET


def test_no_report_quotes_a_secret() -> None:
    for handling in ("redact", "drop"):
        examined = examine(text(SECRETS[0]), QualitySection.model_validate({"secrets": handling}))
        assert SECRETS[0] not in str((examined.dropped, examined.noted))


PIECES = st.lists(
    st.sampled_from(
        [*SECRETS, "jo@mail.fr", "@", "a.b", "password='", "x7Kp9Qm2Zt4V", "'", " ", "://", ":", "\n", "KEY="]
    )
    | st.text(max_size=6),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None)
@example("jo@mail.fr'jo@mail.fr")
@given(PIECES)
def test_redaction_leaves_nothing_to_find(content: str) -> None:
    settings = QualitySection(emails="redact", secrets="redact", invalid_unicode="replace")

    examined = examine(text(content), settings)

    if isinstance(examined.example, PlainText):
        assert find_secrets(examined.example.text) == []
        assert find_emails(examined.example.text) == []


def test_no_text_takes_long_to_search() -> None:
    # Patterns that backtrack would need hours here.
    for content in (
        "a" * 80_000,
        "a@" * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 1_000,
        "eyJ-" * 20_000,
        "sk-" * 20_000,
    ):
        find_emails(content)
        find_secrets(content)


ONE_OF_EACH: list[Example] = [
    talk(SYSTEM, user("a"), CALL, TOOL, assistant("b")),
    text("a"),
    Preference(id="1", document="1", prompt=(user("a"),), chosen=(assistant("b"),), rejected=(assistant("c"),)),
    RatedReply(id="1", document="1", prompt=(user("a"),), completion=(assistant("b"),), wanted=True),
    LabelledText(id="1", document="1", text="a", second_text="b", label="c"),
    TextPair(id="1", document="1", first="a", second="b"),
    RetrievalExample(id="1", document="1", query="a", positives=("b",), negatives=("c",)),
]


@pytest.mark.parametrize("example", ONE_OF_EACH)
def test_a_change_reaches_all_texts_that_are_looked_at(example: Example) -> None:
    changed = with_texts(example, lambda content: content + "!")

    assert list(every_text(changed)) == [content + "!" for content in every_text(example)]
    assert type(changed).model_validate(changed.model_dump()) == changed


def test_labels_are_counted() -> None:
    labelled = [LabelledText(id="1", document="1", text="a", label=label) for label in ("x", "y", "x", 1)]
    rated = [RatedReply(id="1", document="1", prompt=(user("a"),), completion=(assistant("b"),), wanted=False)]

    counts = label_counts([*labelled, *rated, text("a")])

    assert counts == {"x": 2, "1": 1, "unwanted": 1, "y": 1}
    assert next(iter(counts)) == "x"
    assert imbalance({"x": 90, "y": 10}) == 9
    assert imbalance({"x": 5}) == imbalance({}) == 1


def test_lengths_far_from_the_others_are_found() -> None:
    lengths = [100 + number for number in range(50)]

    found = length_outliers([*lengths, 3, 20_000, 160])

    assert (found.short, found.long) == ((50,), (51,))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=40))
def test_what_is_usual_lies_between_the_fences(lengths: list[int]) -> None:
    found = length_outliers(lengths)

    ordered = sorted(lengths)
    middle = ordered[len(ordered) // 4 : max(len(ordered) * 3 // 4, 1)]
    outside = {lengths[row] for row in (*found.short, *found.long)}
    assert outside.isdisjoint(middle)
    assert all(lengths[row] < found.shortest for row in found.short)
    assert all(lengths[row] > found.longest for row in found.long)
