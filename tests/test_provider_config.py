from __future__ import annotations

from pathlib import Path

import pytest

from providers.errors import ConfigError
from routing.packaged_files import DEFAULT_CONFIG
from routing.provider_config import load_provider_config
from routing.settings import load_settings

GOOD = "providers: {llm: {active: [ollama]}, media: {active: [comfyui]}}\n"


def _load(tmp_path: Path, text: str | bytes) -> ConfigError:
    path = tmp_path / "provider_config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_provider_config(path)
    assert str(path) in caught.value.message, "the file is named"
    assert caught.value.hint, "and a remedy"
    for jargon in ("Value error", "Input should", "literal[", "dict[", "unicode string", "instance of"):
        assert jargon not in caught.value.message
    return caught.value


def test_packaged_file_is_valid_and_frozen() -> None:
    config = load_provider_config(DEFAULT_CONFIG)
    assert config.providers.llm.active == ("ollama",)
    with pytest.raises(ValueError, match="frozen"):
        config.models = {}


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("providers: {llm: {actve: [ollama]}}", "providers.llm.actve", "'active'"),
        (GOOD + "llm_routing: {rules: [{provdier: ollama}]}", "llm_routing.rules[0].provdier", "'provider'"),
        (GOOD + "llm_routing: {rules: [{model: x}]}", "llm_routing.rules[0].provider", "add"),
        (GOOD + "llm_routing: {rules: [{provider: ollama, rol: [brand]}]}", "llm_routing.rules[0].rol", "'role'"),
        (GOOD + "llm_routing: {rules: [{provider: olama}]}", "llm_routing.rules[0].provider", "'ollama'"),
        (GOOD + "llm_routing: {rules: [{provider: ollama, role: copywritter}]}", "rules[0].role", "'copywriter'"),
        (GOOD + "media_routing: {image: [{provider: comfy}]}", "media_routing.image[0].provider", "'comfyui'"),
        (GOOD + "llm_routing: {rules: [{provider: ollama, priority: high}]}", "rules[0].priority", "priority"),
        ("providers: {llm: {active: [openia]}}", "providers.llm.active[0]", "openai"),
        (GOOD + "models: {olama: {}}", "models.olama", "'ollama'"),
        ("{}", "providers is missing", "add providers"),
        (GOOD + "mode: live", "unknown key mode", "models"),
        (GOOD + "media_routing: {image: [{provider: comfyui, options: {d: 2024-13-45}}]}", "not valid YAML", "line"),
        (GOOD + "providers: {}", ":2:1: not valid YAML: the key 'providers' is given twice, first in line 1", "line"),
        (GOOD + "models:\n  ollama: {a: {}, b: {},\n    a: {}}", ":4:5: not valid YAML: the key 'a'", "line"),
        (GOOD + "models: {ollama: {a: {x: !!bool 3}}}", ":2:26: not valid YAML: no value", "line"),
        (GOOD + "models:\n\tollama: {}", ":3:1: not valid YAML: found character '\\t'", "line"),
        (GOOD + "prices: {ollama: fre}", "prices.ollama: must be the word free, or prices by model", "prices.ollama"),
        (GOOD + "prices: {ollama: [1]}", "prices.ollama: must be the word free", "prices.ollama"),
        (GOOD + "prices: {ollama: {x: {in: 1}}}", "key prices.ollama.x.in; known: input, output, image", "remove"),
        (GOOD + "prices: {ollama: {x: {inputt: 1}}}", "prices.ollama.x.inputt", "'input'"),
        (GOOD + "prices: {ollama: {x: 3}}", "prices.ollama.x: must be a mapping, got 3", "prices.ollama.x"),
        (GOOD + "prices: {ollama: {x: {input: 0}}}", "prices.ollama.x: a price of nothing", "prices.ollama.x"),
        (GOOD + "llm_routing: {rules: {provider: ollama}}", "llm_routing.rules: must be a list", "llm_routing.rules"),
        (GOOD + "llm_routing: {rules: [3]}", "llm_routing.rules[0]: must be a mapping, got 3", "llm_routing.rules[0]"),
        (GOOD + "settings: {OLLAMA_TIMEOUT: [1]}", "settings.OLLAMA_TIMEOUT: must be a text or a number", "mend"),
        ("- a list", "must be a mapping", "init"),
        ("a: [b", "not valid YAML", "line"),
        (b"\xff\xfe\x00x", "UTF-8", "UTF-8"),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path: Path, text: str | bytes, key: str, hint: str) -> None:
    error = _load(tmp_path, text)
    assert key in error.message
    assert hint in error.hint


def test_a_variable_that_no_provider_reads(tmp_path: Path) -> None:
    (tmp_path / "provider_config.yaml").write_text(GOOD + "settings: {OLLAMA_TIMEOUTT: 3}")
    with pytest.raises(ConfigError, match=r"settings\.OLLAMA_TIMEOUTT") as caught:
        load_settings(environ={})
    assert "'OLLAMA_TIMEOUT'" in caught.value.hint


def test_a_secret_of_the_wrong_type_is_not_repeated(tmp_path: Path) -> None:
    error = _load(tmp_path, GOOD + "settings: {OLLAMA_API_KEY: [key-of-the-house]}")
    assert "key-of-the-house" not in error.message


def test_a_merge_may_overwrite_what_it_brings(tmp_path: Path) -> None:
    path = tmp_path / "provider_config.yaml"
    models = "models: {ollama: {a: &a {top_p: 1, top_k: 2}, b: &b {<<: *a, top_k: 3}, c: {<<: [*a, *b], top_p: 4}}}"
    path.write_text(GOOD + models)
    own = load_provider_config(path).models["ollama"]
    assert (own["b"], own["c"]) == ({"top_p": 1, "top_k": 3}, {"top_p": 4, "top_k": 2})


def test_an_error_of_the_yaml_itself_names_its_line_once(tmp_path: Path) -> None:
    message = _load(tmp_path, GOOD + "models: {ollama: {}\nprices: {}").message
    assert message.count("line") == 1
    assert ":3:1: not valid YAML: " in message
    assert "from line 2" in message, "where what is not closed began"


def test_mode_is_an_alias_of_stage_and_promised_providers_may_stand_in_rules(tmp_path: Path) -> None:
    path = tmp_path / "provider_config.yaml"
    path.write_text(
        "providers: {llm: {active: [ollama], available: [anthropic]}}\n"
        "llm_routing: {rules: [{role: strategist, mode: final, provider: anthropic, model: m, priority: 0}]}\n"
    )
    (rule,) = load_provider_config(path).llm_routing.rules
    assert (rule.role, rule.stage) == (("strategist",), "final")
