"""A thousand random routing files: the router chooses what ten plain lines choose."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.errors import ConfigError, UnknownNameError
from routing.contracts import LLMRequest
from routing.provider_config import ProviderConfigFile
from routing.router import Router

ROLES, TASKS, PROVIDERS, MODELS = ("brief", "copywriter"), ("tagging", "slogan"), ("home", "rented", "away"), ("s", "l")
DEFAULTS = {"home": "home-default", "rented": "rented-default"}  # "away" has none
Rule = dict[str, Any]

rules = st.lists(
    st.fixed_dictionaries(
        {"provider": st.sampled_from(PROVIDERS)},
        optional={
            "role": st.lists(st.sampled_from(ROLES), max_size=2),
            "task": st.lists(st.sampled_from(TASKS), max_size=2),
            "stage": st.sampled_from(("draft", "final")),
            "model": st.sampled_from(MODELS),
            "priority": st.integers(0, 3),
        },
    ),
    max_size=8,
)
requests = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES), "task": st.sampled_from(TASKS)},
    optional={
        "options": st.fixed_dictionaries(
            {},
            optional={
                "stage": st.sampled_from(("draft", "final")),
                "provider": st.sampled_from(PROVIDERS),
                "model": st.sampled_from(("own", *MODELS)),
            },
        )
    },
)
activations = st.lists(st.sampled_from(PROVIDERS), unique=True, max_size=3)


def reference(active: list[str], rules: list[Rule], role: str, task: str, options: dict[str, str]) -> Any:
    """The routes, or the error's class. Written from design.md, not from the router."""
    usable = [options["provider"]] if "provider" in options else active
    if not usable or usable[0] not in active:
        return UnknownNameError if "provider" in options else ConfigError
    asked = {"role": role, "task": task, "stage": options.get("stage", "draft")}
    fits = [r for r in rules if all(not r.get(key) or word in r[key] for key, word in asked.items())]
    fits = sorted((r for r in fits if r["provider"] in usable), key=lambda rule: rule.get("priority", 100))
    pairs = [(r["provider"], options.get("model", r.get("model"))) for r in fits] or [(usable[0], options.get("model"))]
    pairs = [(provider, model or DEFAULTS.get(provider)) for provider, model in pairs]
    if any(model is None for _, model in pairs):
        return ConfigError
    return list(dict.fromkeys(pairs))[: 1 if "model" in options else None]


@pytest.mark.no_cover
@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(active=activations, rules=rules, request=requests)
def test_the_choice_is_that_of_the_reference(active: list[str], rules: list[Rule], request: Rule) -> None:
    config = ProviderConfigFile.model_validate(
        {"providers": {"llm": {"active": active}}, "llm_routing": {"rules": rules}}
    )
    router = Router(config, lambda family, name: DEFAULTS.get(name))
    wanted = reference(active, rules, request["role"], request["task"], request.get("options", {}))
    try:
        chosen: Any = [(route.provider, route.model) for route in router.llm_routes(LLMRequest.model_validate(request))]
    except (ConfigError, UnknownNameError) as exc:
        chosen = type(exc)
    assert chosen == wanted
