"""What the database's values are kept in, and the key that it takes."""

from __future__ import annotations

import base64
import logging
import secrets
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph import vault as module
from graph.vault import Vault
from providers.errors import ConfigError, SparklioError, StorageError
from routing.settings import load_settings

ROOT = Path(__file__).parent.parent
NAME = "SPARKLIO_ENCRYPTION_KEY"
KEY = bytes(range(32))
KEYS = st.none() | st.binary(min_size=32, max_size=32)


@given(st.binary(max_size=3000), KEYS)
def test_what_goes_in_comes_out(content: bytes, key: bytes | None) -> None:
    form, kept = Vault(key).encrypt(content)
    assert Vault(key).decrypt(form, kept) == content
    assert "+" not in form, "LangGraph parts type and form there"


@given(st.binary(max_size=300), KEYS, st.data())
def test_a_flipped_bit_is_found_or_harmless(content: bytes, key: bytes | None, data: st.DataObject) -> None:
    form, kept = Vault(key).encrypt(content)
    bit = data.draw(st.integers(0, len(kept) * 8 - 1))
    flipped = (int.from_bytes(kept, "big") ^ 1 << bit).to_bytes(len(kept), "big")
    try:
        read = Vault(key).decrypt(form, flipped)
    except StorageError:
        return
    assert (read, key) == (content, None), "zlib has bits that mean nothing, ciphertext has none"


def test_the_same_bytes_are_never_encrypted_alike() -> None:
    vault = Vault(KEY)
    assert len({vault.encrypt(b"x")[1] for _ in range(100)}) == 100


def test_what_was_kept_without_a_key_is_read_with_one_but_not_the_other_way_round() -> None:
    assert Vault(KEY).decrypt(*Vault().encrypt(b"x")) == b"x"
    with pytest.raises(ConfigError) as caught:
        Vault().decrypt(*Vault(KEY).encrypt(b"x"))
    assert NAME in caught.value.hint


def test_another_key_reads_nothing() -> None:
    with pytest.raises(StorageError) as caught:
        Vault(bytes(32)).decrypt(*Vault(KEY).encrypt(b"x"))
    assert NAME in caught.value.hint
    assert not Vault(bytes(32)).fits(Vault(KEY).canary())
    assert Vault(KEY).fits(Vault(KEY).canary())


@pytest.mark.parametrize("form", ["zlib", "zlib-aes256gcm"])
@pytest.mark.parametrize("kept", [b"", b"x", b"x" * 11, b"x" * 12, b"x" * 40, "text"])
def test_what_is_not_of_its_form_is_one_typed_error(form: str, kept: bytes) -> None:
    with pytest.raises(StorageError) as caught:
        Vault(KEY).decrypt(form, kept)
    assert caught.value.hint


def test_a_form_of_a_later_version_says_so() -> None:
    with pytest.raises(StorageError, match="'brotli'") as caught:
        Vault().decrypt("brotli", b"x")
    assert "newer" in caught.value.hint


def test_a_few_bytes_do_not_unfold_to_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BIGGEST", 1000)
    assert Vault().decrypt("zlib", zlib.compress(b"x" * 1000))
    with pytest.raises(StorageError):
        Vault().decrypt("zlib", zlib.compress(b"x" * 1001))


def test_bytes_behind_the_end_are_damage() -> None:
    with pytest.raises(StorageError):
        Vault().decrypt("zlib", zlib.compress(b"x") + b"y")


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    Vault()
    with pytest.raises(ConfigError) as caught:
        Vault(KEY)
    assert caught.value.hint == "pip install 'sparklio[encryption]'"


def test_without_a_key_the_package_is_not_imported() -> None:
    code = (
        "import sys; from graph.vault import Vault; vault = Vault(); vault.decrypt(*vault.encrypt(b'x')); "
        "assert not [name for name in sys.modules if name.startswith('cryptography')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# the setting


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper(),
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode().rstrip("="),
        f" {KEY.hex()}\n",
    ],
)
def test_a_key_in_each_of_its_spellings(text: str) -> None:
    assert load_settings(environ={NAME: text}).encryption_key == KEY


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32))
def test_every_key_can_be_written_either_way(key: bytes) -> None:
    for text in (key.hex(), base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()):
        assert load_settings(environ={NAME: text}).encryption_key == key


def test_no_key_is_no_encryption() -> None:
    assert load_settings(environ={}).encryption_key is None
    assert load_settings(environ={NAME: ""}).encryption_key is None


@pytest.mark.parametrize(
    "text",
    [
        "correct-horse-battery-staple",
        KEY.hex()[:-1],
        KEY.hex() + "00",
        "g" * 64,
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        base64.b64encode(KEY).decode().replace("A", "!"),
        "two words of which neither is a key",
        "열쇠" * 16,
        "=",
    ],
)
def test_anything_else_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={NAME: text})
    assert NAME in caught.value.message
    shown = f"{caught.value.to_dict()} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert len(text) < 5 or text not in shown
    assert len(text) < 13 or text[:-4][:12] not in shown


def test_the_hint_makes_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={NAME: "x"})
    _, *command = shlex.split(caught.value.hint.partition(": ")[2])
    made = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout
    assert len(load_settings(environ={NAME: made}).encryption_key or b"") == 32


def test_the_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = secrets.token_hex(32)
    loaded = load_settings(environ={NAME: text})
    vault = Vault(loaded.encryption_key)
    errors: list[SparklioError] = []
    for form, kept in (("zlib-aes256gcm", b"x" * 40), ("zlib", b"x"), ("other", b"x")):
        with pytest.raises(SparklioError) as caught:
            vault.decrypt(form, kept)
        errors.append(caught.value)
    shown = f"{loaded!r} {loaded.values[NAME].to_dict()} {vault!r} {vars(vault)!r} {caplog.text}"
    shown += " ".join(f"{error!r} {error.to_dict()} {error.__cause__!r}" for error in errors)
    assert text[:20] not in shown
    assert repr(loaded.encryption_key)[2:-1] not in shown
    assert loaded.secrets == (text,)
