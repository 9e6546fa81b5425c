"""What the Ollama provider tells of models, and how it gets and warms them, against a stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from providers.base import Finding, MendingStep, ProviderConfig
from providers.errors import (
    AttemptTimeoutError,
    ModelNotFoundError,
    ProviderError,
    ServerError,
    UnreachableError,
)
from providers.llm.ollama import OllamaProvider, library
from providers.llm.ollama.library import ModelInfo
from tests.standins.ollama_library import PULLED_BYTES, OllamaLibraryStandIn
from tests.standins.server import free_port
from tests.waiting import until

MODEL = "inked:7b"
BARE = "paper"  # Ollama calls it paper:latest
OPTIONS = {"num_ctx": 4096, "num_predict": 512, "keep_alive": "3m", "think": False, "num_gpu": 20}


@pytest.fixture
def ollama() -> Iterator[OllamaLibraryStandIn]:
    with OllamaLibraryStandIn([MODEL, BARE]) as server:
        yield server


@pytest.fixture
async def provider(ollama: OllamaLibraryStandIn) -> AsyncIterator[OllamaProvider]:
    provider = make_provider(ollama.url)
    yield provider
    await provider.aclose()


def make_provider(url: str, models: dict[str, Any] | None = None) -> OllamaProvider:
    values = {"OLLAMA_BASE_URL": url, "OLLAMA_DEFAULT_MODEL": None, "OLLAMA_TIMEOUT": "10"}
    return OllamaProvider(ProviderConfig("home", values, {MODEL: OPTIONS} if models is None else models))


async def steps(provider: OllamaProvider, model: str) -> list[MendingStep]:
    async with aclosing(provider.pull(model)) as pulling:
        return [step async for step in pulling]


async def diagnose(provider: OllamaProvider, *models: str) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in await provider.diagnose(models):
        found.setdefault(finding.subject, []).append(finding)
    return found


def nothing_was_loaded(ollama: OllamaLibraryStandIn) -> bool:
    return (ollama.loads, ollama.chats, ollama.generates) == ([], [], [])


# -- what is there -----------------------------------------------------------------------------------------------------


async def test_model_info(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    told = await provider.model_info(BARE)
    assert told == ModelInfo("paper:latest", 4_700_000_000, "7.6B", "Q4_K_M", 32768, ("completion", "tools"))
    ollama.context_length, ollama.capabilities = None, None
    told = await provider.model_info(MODEL)
    assert (told.name, told.context_length, told.capabilities) == (MODEL, None, ())
    assert nothing_was_loaded(ollama)


async def test_model_info_of_a_model_that_is_not_there(provider: OllamaProvider) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await provider.model_info("stranger")
    assert "ollama pull stranger" in caught.value.hint


async def test_what_is_installed_and_what_is_loaded(provider: OllamaProvider) -> None:
    assert [entry["name"] for entry in await provider.list_models()] == [MODEL, "paper:latest"]
    assert await provider.loaded_models() == []
    await provider.prewarm(BARE)
    assert [entry["name"] for entry in await provider.loaded_models()] == ["paper:latest"]


@pytest.mark.parametrize(
    ("preferred", "best"),
    [
        (["stranger", BARE, MODEL], BARE),
        (["stranger", "paper:latest"], "paper:latest"),
        ([MODEL, BARE], MODEL),
        (["inked", BARE], BARE),  # a bare name is not just any tag
        (None, MODEL),  # the order of provider_config.yaml
    ],
)
async def test_the_best_model_is_the_first_that_is_pulled(
    provider: OllamaProvider, preferred: list[str] | None, best: str
) -> None:
    assert await provider.select_best_model(preferred) == best


@pytest.mark.parametrize(("preferred", "hint"), [(["a", "b"], "ollama pull a"), ([], "models.home")])
async def test_none_of_the_preferred_is_pulled(provider: OllamaProvider, preferred: list[str], hint: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await provider.select_best_model(preferred)
    assert hint in caught.value.hint


# -- warming -----------------------------------------------------------------------------------------------------------


async def test_a_warmed_model_is_not_loaded_again_by_the_first_call(
    provider: OllamaProvider, ollama: OllamaLibraryStandIn
) -> None:
    await provider.prewarm(MODEL)
    assert ollama.loads == [(MODEL, 4096)]
    await provider.generate("안녕?", "editor", "rewrite", "chat", {"model": MODEL})
    assert ollama.loads == [(MODEL, 4096)]
    warmed, called = ollama.generates[0], ollama.chats[0]
    assert warmed["keep_alive"] == called["keep_alive"] == "3m"
    assert warmed["options"] == called["options"]
    assert not warmed.get("prompt")


async def test_warming_a_model_that_is_not_pulled(provider: OllamaProvider) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await provider.prewarm("stranger")
    assert "ollama pull stranger" in caught.value.hint


# -- pulling -----------------------------------------------------------------------------------------------------------


async def test_pull_tells_bytes_and_never_goes_back(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    told = await steps(provider, "stranger")
    assert ollama.pulled == [{"model": "stranger"}]
    done = [step.done for step in told]
    assert done == sorted(done)
    assert (told[-1].note, told[-1].done, told[-1].total) == ("success", PULLED_BYTES, PULLED_BYTES)
    assert told[0] == MendingStep("pulling manifest")
    assert await provider.select_best_model(["stranger"]) == "stranger"
    assert nothing_was_loaded(ollama)


async def test_a_disk_that_is_full_is_an_error_though_the_status_is_200(
    provider: OllamaProvider, ollama: OllamaLibraryStandIn
) -> None:
    ollama.pull_error = "write /models/blobs/sha256-aa-partial: no space left on device"
    with pytest.raises(ServerError) as caught:
        await steps(provider, "stranger")
    assert "no space left on device" in caught.value.message
    assert "room on its disk" in caught.value.hint


async def test_a_name_that_the_registry_does_not_know(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    ollama.pull_error = "pull model manifest: file does not exist"
    with pytest.raises(ModelNotFoundError) as caught:
        await steps(provider, "strangr")
    assert "strangr" in caught.value.message


@pytest.mark.parametrize("text", [b"", b"<html>\n", b'"success"\n', b'{"status": "pulling'])
async def test_a_pull_whose_answer_breaks_off_or_is_not_ollama_s(
    provider: OllamaProvider, ollama: OllamaLibraryStandIn, text: bytes
) -> None:
    ollama.pull_text = text
    with pytest.raises(ServerError) as caught:
        await steps(provider, "stranger")
    assert "pull again" in caught.value.hint


async def test_a_pull_that_stalls(
    provider: OllamaProvider, ollama: OllamaLibraryStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "STALL_S", 0.2)
    ollama.pull_stalls = True
    with pytest.raises(AttemptTimeoutError) as caught:
        await steps(provider, "stranger")
    assert "pull again" in caught.value.hint
    assert await provider.health_check()


async def test_a_pull_that_nobody_reads_to_its_end_is_closed(
    provider: OllamaProvider, ollama: OllamaLibraryStandIn
) -> None:
    ollama.pull_stalls = True
    async with aclosing(provider.pull("stranger")) as pulling:
        assert (await anext(pulling)).note == "pulling manifest"
    await until(lambda: not ollama.active)


async def test_nothing_of_it_works_without_a_server() -> None:
    provider = make_provider(f"http://127.0.0.1:{free_port()}")
    calls = (provider.model_info(MODEL), provider.select_best_model(), provider.prewarm(MODEL), steps(provider, MODEL))
    for call in calls:
        with pytest.raises(UnreachableError) as caught:
            await call
        assert "ollama serve" in caught.value.hint
    await provider.aclose()


# -- the diagnosis -----------------------------------------------------------------------------------------------------


async def test_all_is_well(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    found = await diagnose(provider, MODEL, BARE, MODEL)
    assert list(found) == ["home", f"model {MODEL}", f"model {BARE}"]
    assert all(len(findings) == 1 and findings[0].state == "ok" for findings in found.values())
    assert "0.30.0" in found["home"][0].message
    assert "context 4096" in found[f"model {MODEL}"][0].message
    assert nothing_was_loaded(ollama)


async def test_a_model_that_is_missing_can_be_mended(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    (finding,) = (await diagnose(provider, "stranger"))["model stranger"]
    assert (finding.state, finding.remedy) == ("failed", "ollama pull stranger")
    assert MODEL in finding.message, "the best one that is there is named"
    assert finding.mend is not None
    async with aclosing(finding.mend()) as mending:
        assert [step async for step in mending][-1].note == "success"
    (finding,) = (await diagnose(provider, "stranger"))["model stranger"]
    assert finding.state == "ok"
    assert nothing_was_loaded(ollama)


async def test_a_model_that_spilled_to_the_cpu(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    ollama.vram_share = 0.5
    await provider.prewarm(MODEL)
    found = await diagnose(provider, MODEL, BARE)
    (finding,) = found[f"model {MODEL}"]
    assert finding.state == "warning"
    assert "degraded: 50 %" in finding.message
    assert found[f"model {BARE}"][0].state == "ok", "it is not loaded, so nobody knows"


async def test_a_context_that_the_model_was_not_made_for(
    provider: OllamaProvider, ollama: OllamaLibraryStandIn
) -> None:
    ollama.context_length = 2048
    (finding,) = (await diagnose(provider, MODEL))[f"model {MODEL}"]
    assert finding.state == "warning"
    assert f"models.home.{MODEL}.num_ctx" in finding.remedy
    assert "2048" in finding.remedy


async def test_a_model_that_does_not_write(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    ollama.capabilities = ["embedding"]
    (finding,) = (await diagnose(provider, MODEL))[f"model {MODEL}"]
    assert finding.state == "failed"
    assert "embedding" in finding.message


async def test_a_server_that_tells_nothing_of_a_model(provider: OllamaProvider, ollama: OllamaLibraryStandIn) -> None:
    ollama.show_status = 500
    (finding,) = (await diagnose(provider, MODEL))[f"model {MODEL}"]
    assert finding.state == "warning"
    assert "runner busy" in finding.message


async def test_no_server_is_one_finding_with_its_url_and_without_its_password() -> None:
    port = free_port()
    provider = make_provider(f"http://me:secret@127.0.0.1:{port}")
    (finding,) = await provider.diagnose([MODEL, BARE])
    assert (finding.subject, finding.state) == ("home", "failed")
    assert "ollama serve" in finding.remedy
    assert f"127.0.0.1:{port}" in finding.remedy
    assert "secret" not in finding.message + finding.remedy
    await provider.aclose()


async def test_a_provider_without_models_of_its_own_says_so_too(ollama: OllamaLibraryStandIn) -> None:
    provider = make_provider(ollama.url, models={})
    (finding,) = (await diagnose(provider, "stranger"))["model stranger"]
    assert "nor is another" in finding.message
    with pytest.raises(ProviderError):
        await provider.select_best_model()
    await provider.aclose()
