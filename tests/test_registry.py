"""Providers from outside: packages that offer a class under an entry point."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from providers import registry
from providers.base import LLMProvider
from providers.errors import ConfigError, UnknownNameError
from providers.registry import image_provider, known_providers, llm_provider
from routing.settings import load_settings

MODULE = """
from providers.base import LLMOutput, LLMProvider, LLMProviderResponse, Setting


class Parrot(LLMProvider):
    vendor = "parrot"
    settings = (Setting("PARROT_MODEL", "What it answers as.", default="grey", kind="model"),)

    async def generate(self, prompt, role, task, mode, options):
        output = LLMOutput(type="text", content=prompt)
        return LLMProviderResponse(provider=self.config.name, model=options["model"], output=output)

    async def health_check(self):
        return True


class Broken:
    @property
    def Parrot(self):
        raise RuntimeError("its own trouble")


broken = Broken()
"""
Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Forget what was found before the test and in it."""
    found = (known_providers, registry._offered)
    for cached in found:
        cached.cache_clear()
    yield
    for cached in found:
        cached.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package on the path as pip would: a module, and metadata with its entry point."""

    def install(name: str, target: str, *, package: str = "aviary", group: str = "sparklio.llm_providers") -> None:
        site = tmp_path / package
        metadata = site / f"{package}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{package}_module.py").write_text(MODULE)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, f"{package}_module", raising=False)

    return install


def test_a_package_s_provider_is_found_by_its_name(install: Install, tmp_path: Path) -> None:
    install("parrot", "aviary_module:Parrot")
    assert known_providers("llm") >= {"ollama", "parrot"}
    assert "aviary_module" not in sys.modules
    assert issubclass(llm_provider("parrot"), LLMProvider)
    (tmp_path / "provider_config.yaml").write_text("providers: {llm: {active: [parrot]}}")
    settings = load_settings(environ={"PARROT_MODEL": "ara"}, folder=tmp_path)
    assert settings.default_model("llm", "parrot") == "ara"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_module:Parrot", "No module named 'no_such_module'"),
        ("aviary_module:Raven", "Raven"),
        ("aviary_module:LLMOutput", "is no LLMProvider"),
        ("aviary_module:LLMProvider", "is no LLMProvider"),
        ("aviary_module:broken.Parrot", "its own trouble"),
    ],
)
def test_what_cannot_be_loaded_says_why(install: Install, target: str, said: str) -> None:
    install("parrot", target)
    with pytest.raises(ConfigError, match=said) as caught:
        llm_provider("parrot")
    assert caught.value.hint


def test_a_name_stands_for_one_provider(install: Install) -> None:
    install("ollama", "aviary_module:Parrot")
    with pytest.raises(ConfigError, match="more than one llm provider is named 'ollama'") as caught:
        llm_provider("ollama")
    assert "aviary" in caught.value.hint


def test_a_chat_provider_is_no_image_provider(install: Install) -> None:
    install("parrot", "aviary_module:Parrot", group="sparklio.image_providers")
    with pytest.raises(ConfigError, match="is no ImageProvider"):
        image_provider("parrot")
    with pytest.raises(UnknownNameError):
        llm_provider("parrot")
