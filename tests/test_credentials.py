"""A credential is complete, fits into a header, and never shows its secrets."""

from __future__ import annotations

import copy
import html
import json
import pickle
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai.api import BearerToken, Credential, PaiConfigurationError, StaticCredential

SECRET = "s3cr3tKEYwith30characters=/+"
TOKEN = "CAIStoken/with+all&signs<>'=="
WHOLE = Credential(access_key_id="LTAI5t", access_key_secret=SECRET, security_token=TOKEN)


@pytest.mark.parametrize("part", ["access_key_id", "access_key_secret", "security_token"])
@pytest.mark.parametrize(
    "value", ["", "a b", " a", "a\n", "a\r\nx-evil: 1", "a\t", "é", "a\x00", "\x7f", "\ud800", 5]
)
def test_a_part_that_is_missing_or_fits_no_header_is_refused_without_showing_it(part, value):
    fields = {"access_key_id": "id", "access_key_secret": SECRET, "security_token": TOKEN, part: value}
    with pytest.raises(PaiConfigurationError) as caught:
        Credential(**fields)
    assert {"access_key_id": "login", "access_key_secret": "password"}.get(part, part) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("part", ["access_key_id", "access_key_secret"])
def test_a_connection_without_a_key_is_refused(part):
    with pytest.raises(PaiConfigurationError, match="empty"):
        Credential(**{"access_key_id": "id", "access_key_secret": "s", part: None})


@pytest.mark.parametrize("credential", [WHOLE, BearerToken(TOKEN)], ids=["key", "bearer"])
@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        lambda credential: f"{credential!r:>200}",
        lambda credential: repr([credential, {"key": credential}]),
        lambda credential: repr(StaticCredential(credential)),
        lambda credential: repr(list(credential.__rich_repr__())),  # what rich shows in a traceback
        lambda credential: repr(copy.copy(credential)),
    ],
)
def test_no_way_of_showing_a_credential_shows_its_secrets(show, credential):
    exposed = show(credential)
    assert SECRET not in exposed
    assert TOKEN not in exposed


def test_a_credential_survives_pickling():
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE
    assert msgspec.structs.replace(WHOLE, access_key_id="x").access_key_id == "x"


def test_the_static_source_returns_its_credential_without_blocking():
    source = StaticCredential(WHOLE)
    assert source.get() is WHOLE
    assert source.blocking is False


def gson(text: str) -> str:
    """JSON as Java's Gson writes it by default."""
    encoded = json.dumps(text)[1:-1]
    for character in "<>&='":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return encoded


ENCODINGS = {
    "as it is": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON with \\/": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON of Gson": gson,
    "JSON of Gson in capitals": lambda text: gson(text).replace("\\u003c", "\\u003C"),
    "XML": html.escape,
    "percent": lambda text: quote(text, safe=""),
    "percent in lower case": lambda text: quote(text, safe="").replace("%2F", "%2f"),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS.keys())
@pytest.mark.parametrize("secret", [SECRET, TOKEN])
def test_a_repeated_secret_is_removed_however_it_is_encoded(encode, secret):
    body = b"before " + encode(secret).encode() + b" between " + encode(secret).encode() + b" after"
    assert WHOLE.redact(body) == b"before *** between *** after"


@given(st.binary(max_size=200))
def test_a_body_without_secrets_is_unchanged(body):
    assert WHOLE.redact(body) == body


@given(
    secret=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=40),
    before=st.binary(max_size=20),
    after=st.binary(max_size=20),
    encode=st.sampled_from(list(ENCODINGS.values())),
)
def test_no_secret_survives_redaction(secret, before, after, encode):
    credential = Credential(access_key_id="id", access_key_secret=secret)
    assert encode(secret).encode() not in credential.redact(before + encode(secret).encode() + after)
