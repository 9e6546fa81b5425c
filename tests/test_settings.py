from __future__ import annotations

from pathlib import Path

import pytest

from providers.errors import ConfigError, UnknownNameError
from routing.packaged_files import DEFAULT_CONFIG, ENV_EXAMPLE
from routing.settings import load_settings, mask


def test_defaults_need_nothing(tmp_path: Path) -> None:
    settings = load_settings(environ={})
    assert settings.mode == "mock"
    assert settings.home == tmp_path / ".sparklio"
    assert settings.gateway_timeout_s == 5
    assert settings.values["OLLAMA_BASE_URL"].source == "default"
    assert settings.default_model("llm", "ollama") == settings.text("OLLAMA_DEFAULT_MODEL")


def test_order_argument_environment_dotenv_yaml_default(tmp_path: Path) -> None:
    name = "OLLAMA_TIMEOUT"
    assert load_settings(environ={}).values[name].source == "default"
    (tmp_path / "provider_config.yaml").write_text(
        f"providers: {{llm: {{active: [ollama]}}}}\nsettings: {{{name}: 11}}\n"
    )
    assert _value(name, {}) == ("11", "provider_config.yaml")
    (tmp_path / ".env").write_text(f"{name}=22\n")
    assert _value(name, {}) == ("22", ".env")
    assert _value(name, {name: "33"}) == ("33", "environment")
    settings = load_settings({name: "44"}, environ={name: "33"})
    value = settings.values[name]
    assert (value.value, value.source) == ("44", "argument")
    assert value.hides == (("environment", "33"), (".env", "22"), ("provider_config.yaml", "11"), ("default", "120"))


def _value(name: str, environ: dict[str, str]) -> tuple[str | None, str]:
    value = load_settings(environ=environ).values[name]
    return value.value, value.source


def test_environment_that_hides_dotenv_is_said_aloud(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OLLAMA_BASE_URL=http://desktop:11434\n")
    assert load_settings(environ={"OLLAMA_BASE_URL": "http://desktop:11434"}).warnings == ()
    (warning,) = load_settings(environ={"OLLAMA_BASE_URL": "http://old:11434"}).warnings
    assert "http://old:11434" in warning
    assert "http://desktop:11434" in warning
    assert "unset OLLAMA_BASE_URL" in warning


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("OLAMA_BASE_URL=http://desktop:11434", "nobody reads OLAMA_BASE_URL; did you mean OLLAMA_BASE_URL?"),
        ("OLLAMA_URL=http://desktop:11434", "did you mean OLLAMA_BASE_URL?"),
        ("ollama_base_url=http://desktop:11434", "did you mean OLLAMA_BASE_URL?"),
        ("GENERATOR_MOD=live", "did you mean GENERATOR_MODE?"),
        ("export OPENAI_APIKEY=key-that-nobody-may-see", "did you mean OPENAI_API_KEY?"),  # of an idle provider
        ("OLLAMA_BASE_URL http://desktop:11434", "assigns nothing; write it as NAME=value"),
        ("OLLAMA_BASE_URL: http://desktop:11434", "assigns nothing"),
        ("OLLAMA_BASE_URL", "assigns nothing"),
        ("key-that-nobody-may-see", "assigns nothing"),
    ],
)
def test_a_slip_in_dotenv_is_told_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str, says: str
) -> None:
    (tmp_path / ".env").write_text(f"# a comment\n\n{line}\n")
    settings = load_settings(environ={})
    (warning,) = settings.warnings
    assert warning.startswith(".env:3: ")
    assert says in warning
    assert "key-that-nobody-may-see" not in warning + repr(settings)
    assert "desktop" not in warning
    assert caplog.records == [], "python-dotenv's own word would come a second time, without the file"


def test_other_programs_variables_in_dotenv_are_let_alone(tmp_path: Path) -> None:
    names = ["DATABASE_URL", "OLLAMA_HOST", "OLLAMA_MODELS", "OPENAI_ORG_ID", "HF_TOKEN", "AZURE_OPENAI_API_KEY"]
    ours = ["OLLAMA_BASE_URL=http://desktop:11434", "OPENAI_API_KEY=key-of-an-idle-provider"]
    (tmp_path / ".env").write_text("\n".join([*(f"{name}=x" for name in names), *ours]))
    settings = load_settings(environ={})
    assert settings.warnings == ()
    assert settings.text("OLLAMA_BASE_URL") == "http://desktop:11434"


def test_dotenv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"OLLAMA_BASE_URL=\xff\xfe")
    with pytest.raises(ConfigError, match=r"cannot read .*\.env"):
        load_settings(environ={})


def test_the_variable_of_a_default_model_is_the_one_that_its_provider_declares(tmp_path: Path) -> None:
    (tmp_path / "provider_config.yaml").write_text("providers: {llm: {active: [gemini]}, media: {active: [comfyui]}}")
    settings = load_settings(environ={"GOOGLE_DEFAULT_MODEL": "muse"})
    assert settings.default_variable("llm", "gemini") == "GOOGLE_DEFAULT_MODEL"
    assert settings.default_model("llm", "gemini") == "muse"
    assert settings.default_variable("media", "comfyui") is None
    assert settings.default_model("media", "comfyui") is None


def test_an_empty_variable_is_an_unset_one() -> None:
    assert load_settings(environ={"OLLAMA_BASE_URL": ""}).values["OLLAMA_BASE_URL"].source == "default"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GENERATOR_MODE", "real", "mock, live"),
        ("OLLAMA_BASE_URL", "desktop:11434", "http"),
        ("OLLAMA_TIMEOUT", "soon", "seconds"),
        ("GATEWAY_TIMEOUT_MOCK", "-1", "seconds"),
        ("GATEWAY_TIMEOUT_MOCK", "inf", "seconds"),
    ],
)
def test_wrong_value_names_variable_and_source(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={name: value})
    assert name in caught.value.message
    assert says in caught.value.message
    assert "environment" in caught.value.message


def test_config_that_was_named_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_settings(environ={"SPARKLIO_CONFIG": "nowhere.yaml"})


def test_mask() -> None:
    assert mask("sk-1234567890abcdef", secret=True) == "***cdef"
    assert mask("short", secret=True) == "***"
    assert mask("http://me:pw@host:1/x") == "http://***@host:1/x"
    assert mask("http://host/a@b") == "http://host/a@b"
    assert mask("http://u:p@ss:x@host:1/a@b") == "http://***@host:1/a@b"


def test_config_shows_the_file_in_use(tmp_path: Path) -> None:
    assert load_settings(environ={}).text("SPARKLIO_CONFIG") == str(DEFAULT_CONFIG)
    (tmp_path / "provider_config.yaml").write_text("providers: {llm: {active: [ollama]}}")
    assert load_settings(environ={}).text("SPARKLIO_CONFIG") == str(tmp_path / "provider_config.yaml")


def test_an_argument_that_names_no_variable() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_settings({"OLLAMA_BASE_URI": "http://x"}, environ={})
    assert "OLLAMA_BASE_URL" in caught.value.hint


def test_env_example_names_every_declared_variable() -> None:
    named = {line.lstrip("#").partition("=")[0] for line in ENV_EXAMPLE.read_text().splitlines() if "=" in line}
    assert set(load_settings(environ={}).values) <= named


def test_a_key_brings_no_line_end_along_and_is_plain_ascii() -> None:
    settings = load_settings(environ={"OLLAMA_API_KEY": " key-0123456789\n"})
    assert settings.text("OLLAMA_API_KEY") == "key-0123456789"
    for wrong in ("key with blanks", "열쇠-0123456789", "key\x00-0123456789"):
        with pytest.raises(ConfigError, match="plain ASCII") as caught:
            load_settings(environ={"OLLAMA_API_KEY": wrong})
        assert wrong not in f"{caught.value.to_dict()}"


@pytest.mark.parametrize(("value", "fits"), [("0", True), ("2.5", True), ("-1", False), ("much", False)])
def test_a_budget_is_an_amount(value: str, fits: bool) -> None:
    if fits:
        assert load_settings(environ={"RUN_BUDGET_USD": value}).run_budget_usd == float(value)
    else:
        with pytest.raises(ConfigError, match="RUN_BUDGET_USD"):
            load_settings(environ={"RUN_BUDGET_USD": value})


# Several machines

DATABASE = "postgresql://sparklio:p%40ss-word@db:5432/sparklio?sslmode=verify-full"


def test_one_machine_is_the_default() -> None:
    settings = load_settings(environ={})
    assert (settings.database_url, settings.broker_url, settings.artifacts_url) == (None, None, None)
    assert settings.count("SPARKLIO_MAX_DELIVERIES") == 5
    assert settings.secrets == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPARKLIO_DATABASE_URL", "postgres://db/sparklio"),
        ("SPARKLIO_DATABASE_URL", DATABASE),
        ("SPARKLIO_BROKER_URL", "redis://cache:6379/0"),
        ("SPARKLIO_BROKER_URL", "rediss://:pass-word@cache:6380/1"),
        ("SPARKLIO_ARTIFACTS_URL", "file:///shared/folder"),
        ("SPARKLIO_ARTIFACTS_URL", "s3://bucket/prefix"),
        ("SPARKLIO_ARTIFACTS_URL", "gs://bucket"),
        ("SPARKLIO_ARTIFACTS_URL", "az://container/prefix"),
    ],
)
def test_places_by_url(name: str, value: str) -> None:
    others = {"SPARKLIO_DATABASE_URL": DATABASE, "SPARKLIO_ARTIFACTS_URL": "file:///shared"}
    assert load_settings(environ={**others, name: value}).text(name) == value


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SPARKLIO_DATABASE_URL", "mysql://root:pass-word@db/sparklio", "postgresql:// or postgres://"),
        ("SPARKLIO_DATABASE_URL", "db:5432", "postgresql://"),
        ("SPARKLIO_BROKER_URL", "amqp://guest:pass-word@cache//", "redis:// or rediss://"),
        ("SPARKLIO_BROKER_URL", "REDIS://cache", "redis://"),
        ("SPARKLIO_ARTIFACTS_URL", "/shared/folder", "file://"),
        ("SPARKLIO_ARTIFACTS_URL", "https://me:pass-word@bucket.example", "s3://"),
    ],
)
def test_a_place_of_another_kind_is_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={name: value})
    assert caught.value.message.startswith(name)
    assert says in caught.value.message
    assert "pass-word" not in f"{caught.value.to_dict()}"


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "often"])
def test_deliveries_are_counted(value: str) -> None:
    with pytest.raises(ConfigError, match="SPARKLIO_MAX_DELIVERIES must be a whole number"):
        load_settings(environ={"SPARKLIO_MAX_DELIVERIES": value})


def test_workers_need_a_database() -> None:
    with pytest.raises(ConfigError, match="SPARKLIO_DATABASE_URL is not") as caught:
        load_settings(environ={"SPARKLIO_BROKER_URL": "redis://:pass-word@cache"})
    assert "postgresql://" in caught.value.hint
    assert "pass-word" not in f"{caught.value.to_dict()}"
    assert load_settings(environ={"SPARKLIO_DATABASE_URL": DATABASE}).broker_url is None


def test_workers_need_a_place_that_all_see() -> None:
    environ = {"SPARKLIO_DATABASE_URL": DATABASE, "SPARKLIO_BROKER_URL": "redis://cache"}
    with pytest.raises(ConfigError, match="SPARKLIO_ARTIFACTS_URL is not") as caught:
        load_settings(environ=environ)
    assert "file:///" in caught.value.hint
    assert load_settings(environ={**environ, "SPARKLIO_ARTIFACTS_URL": "s3://bucket"}).broker_url


def test_passwords_of_places_are_secret() -> None:
    """As they stand in the URL and as they are sent; what is shown of the place is the rest of it."""
    broker = {"SPARKLIO_BROKER_URL": "rediss://:other-word@cache:6380/0", "SPARKLIO_ARTIFACTS_URL": "file:///shared"}
    settings = load_settings(environ={"SPARKLIO_DATABASE_URL": DATABASE, **broker})
    assert set(settings.secrets) == {"p%40ss-word", "p@ss-word", "other-word"}
    shown = f"{settings.to_dict()} {settings}"
    assert not any(secret in shown for secret in settings.secrets)
    assert settings.values["SPARKLIO_BROKER_URL"].shown() == "rediss://***@cache:6380/0"
    assert "postgresql://***@db:5432/sparklio?sslmode=verify-full" in shown


def test_a_hidden_place_shows_no_password(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SPARKLIO_DATABASE_URL=postgresql://me:old-word@db/sparklio\n")
    settings = load_settings(environ={"SPARKLIO_DATABASE_URL": DATABASE})
    (warning,) = settings.warnings
    assert "postgresql://***@db/sparklio" in warning
    assert not any(word in f"{warning} {settings.to_dict()}" for word in ("old-word", "ss-word"))
