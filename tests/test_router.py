from __future__ import annotations

import pytest

from providers.errors import ConfigError, UnknownNameError
from routing.contracts import ImageRequest, LLMRequest
from routing.provider_config import ProviderConfigFile
from routing.router import Router


def _router(**parts: object) -> Router:
    providers = {"llm": {"active": ["home", "rented"]}, "media": {"active": ["desk", "cloud"]}}
    config = ProviderConfigFile.model_validate({"providers": providers, **parts})
    return Router(
        config,
        lambda family, name: {"home": "home-default"}.get(name),
        lambda family, name: {"rented": "LEASE_DEFAULT_MODEL"}.get(name),
    )


RULES = _router(
    llm_routing={
        "rules": [
            {"role": "copywriter", "provider": "home", "model": "large", "priority": 3},
            {"task": ["tagging"], "provider": "home", "model": "tiny", "priority": 2},
            {"role": "copywriter", "stage": "final", "provider": "rented", "model": "best", "priority": 0},
            {"role": "brief", "provider": "home", "priority": 4},
            {"role": "brief", "provider": "asleep", "model": "x", "priority": 0},
        ]
    },
    media_routing={
        "image": [
            {"provider": "desk", "workflow": "any", "priority": 9},
            {"kind": "hero", "provider": "cloud", "workflow": "hero", "options": {"steps": 9}, "priority": 1},
        ]
    },
)


RULES_OF_NOBODY = ProviderConfigFile.model_validate({"providers": {"llm": {"active": ["home"]}}})


def _routes(role: str, task: str, **options: object) -> list[tuple[str, str]]:
    request = LLMRequest.model_validate({"role": role, "task": task, "options": options})
    return [(route.provider, route.model) for route in RULES.llm_routes(request)]


def test_rules_by_priority_the_next_ones_are_the_fallbacks() -> None:
    assert _routes("copywriter", "product_detail") == [("home", "large")]
    assert _routes("copywriter", "tagging") == [("home", "tiny"), ("home", "large")]
    assert _routes("copywriter", "x", stage="final") == [("rented", "best"), ("home", "large")]


def test_a_rule_of_an_idle_provider_is_passed_over_and_one_without_model_has_the_default() -> None:
    assert _routes("brief", "marketing_brief") == [("home", "home-default")]


def test_no_rule_matches() -> None:
    assert _routes("poet", "haiku") == [("home", "home-default")]


def test_the_request_wins() -> None:
    assert _routes("copywriter", "x", model="mine") == [("home", "mine")]
    assert _routes("poet", "haiku", provider="rented", model="mine") == [("rented", "mine")]
    assert _routes("copywriter", "x", provider="home") == [("home", "large")]


def test_provider_that_is_not_active() -> None:
    with pytest.raises(UnknownNameError, match="known: home, rented"):
        _routes("copywriter", "x", provider="asleep")


def test_provider_without_any_model() -> None:
    with pytest.raises(ConfigError) as caught:
        _routes("poet", "haiku", provider="rented")
    assert "set LEASE_DEFAULT_MODEL, or add `model:`" in caught.value.hint, "not made up of the provider's name"
    with pytest.raises(ConfigError) as caught:
        Router(RULES_OF_NOBODY, lambda family, name: None).llm_routes(LLMRequest(role="poet", task="haiku"))
    assert caught.value.hint.startswith("add `model:`")


def test_image_routes() -> None:
    hero, fallback = RULES.image_routes(ImageRequest(kind="hero", prompt="p"))
    assert (hero.provider, hero.workflow, hero.options) == ("cloud", "hero", {"steps": 9})
    assert (fallback.provider, fallback.workflow) == ("desk", "any")
    (only,) = RULES.image_routes(ImageRequest(kind="banner", prompt="p"))
    assert only.workflow == "any"
    asked = ImageRequest.model_validate({"prompt": "p", "provider": "cloud", "options": {"workflow": "mine"}})
    assert [(r.provider, r.workflow) for r in RULES.image_routes(asked)] == [("cloud", "mine")]
