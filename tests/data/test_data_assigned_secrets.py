"""Secrets that are known by the name that they are given, without quotes and in JSON that stands in JSON; and what only
looks like them."""

from __future__ import annotations

import json

import pytest

from hfkit.data.assigned_secrets import is_secret_setting
from hfkit.data.personal import find_secrets, without_secrets

# Made up here.
KEY = "Zk39xQpL7mWv2Rt8Yb41"
PASSWORD = "hunter29xQpL7mWv"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"      api_key: {KEY}\n      n: 30\n", KEY),
        (f"arguments: {{api_key: {KEY}, n: 30}}", KEY),
        (f"password: {PASSWORD}", PASSWORD),
        ("aws_secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYzK8a4Lq2", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzK8a4Lq2"),
        (f"The API key: {KEY}.", KEY),
        (f"GET /rows?token={KEY}&page=2", KEY),
        (json.dumps({"text": json.dumps({"api_key": KEY})}), KEY),
        (json.dumps({"text": json.dumps({"text": json.dumps({"api_key": KEY})})}), KEY),
        (json.dumps({"text": f"token: {KEY}\nnext"}), KEY),
        ('"api_key": "Zk39xQ1234Wv2Rt8"', "Zk39xQ1234Wv2Rt8"),
        ("token = 'Zk39xQtestWv2Rt8Yb41'", "Zk39xQtestWv2Rt8Yb41"),
        (f"the password: `{KEY}`", KEY),
        ("api_key: 7c9e6679-7425-40de-944b-e07fc1f90ae7", "7c9e6679-7425-40de-944b-e07fc1f90ae7"),
        ("postgres://app:h7Kp9Qm2test4Lx@db.local/x", "h7Kp9Qm2test4Lx"),
    ],
)
def test_a_value_with_the_name_of_a_secret_is_found_whole(text: str, secret: str) -> None:
    (found,) = find_secrets(text)
    assert text[found.start : found.end] == secret
    assert without_secrets(text) == text.replace(secret, "[secret]")


@pytest.mark.parametrize(
    "harmless",
    [
        "password: choose at least 12 characters",
        "Password: Passw0rd123!",
        "token: Optional[str] = None",
        "token = response.json()['access_token']",
        "token = previousToken2 or first_token_of_row_17",
        "secret_key: settings.SECRET_KEY_2",
        "api_key=config.api_keys[0]",
        "access_key: os.getenv('ACCESS_KEY_2')",
        "The secret: 2024-01-01T00:00:00Z was the date.",
        "pad_token: <|finetune_right_pad_id|>",
        "eos_token_id: 151643",
        "token: HuggingFaceTB/SmolLM2-135M-Instruct",
        "token: model-00001-of-00003.safetensors",
        "token == other_token_2 == third_token_3",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        'api_key = "your_api_key_goes_here_123"',
        "token = 'test-token-a1b2c3d4'",
        'token: "MyTestTokenizer2Fast"',
        '"token": "abcd1234efgh5678"',
        "secret: keep",
        "max_new_tokens: 123456789012",
        "private key: ssh-keygen -t ed25519",
        'verify_token="eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9..."',
    ],
)
def test_words_code_and_placeholders_are_no_secrets(harmless: str) -> None:
    assert find_secrets(harmless) == []


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("password", "swordfish", True),
        ("db_password", "correct horse battery staple", True),
        ("dbPassword", "20231105", True),
        ("client_secret", PASSWORD, True),
        ("api_key", KEY, True),
        ("apiKey", KEY, True),
        ("password", "env:DB_PASSWORD", False),
        ("password", "DB_PASSWORD", False),
        ("password", "${DB_PASSWORD}", False),
        ("password", "<your password>", False),
        ("password", "changeme", False),
        ("password", "your-password-here", False),
        ("password", "hunter2secret", True),
        ("password", "null", False),
        ("api_key", "null", False),
        ("api_key_env", KEY, False),
        ("key_env", "OPENAI_API_KEY", False),
        ("secrets", "redact", False),
        ("special_tokens", "escape", False),
        ("max_new_tokens", "1234567890", False),
        ("key", "created_at", False),
        ("pad_token", "<pad>", False),
        ("token", "whitespace", False),
        ("private_key", "./keys/id_ed25519", False),
    ],
)
def test_a_recipes_keys_say_what_is_secret(name: str, value: str, secret: bool) -> None:
    assert is_secret_setting(name, value) is secret


def test_no_text_takes_long_to_search_for_assignments() -> None:
    # Patterns that backtrack would need hours here.
    for content in ("token=" * 20_000, "api key: '" * 10_000, 'token="' + "\\" * 80_000, "secret: " + "a1" * 40_000):
        find_secrets(content)
