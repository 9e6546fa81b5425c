"""Where the files are that travel with the code: at the root of a checkout, or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEFAULT_CONFIG", "ENV_EXAMPLE", "EXAMPLE_INPUT"]

_ROOT = Path(__file__).resolve().parent.parent
_WHEEL = Path(__file__).resolve().parent / "packaged"


def _find(in_wheel: str, in_checkout: str) -> Path:
    installed = _WHEEL / in_wheel
    return installed if installed.exists() else _ROOT / in_checkout


DEFAULT_CONFIG = _find("provider_config.yaml", "provider_config.yaml")
ENV_EXAMPLE = _find("env.example", ".env.example")
EXAMPLE_INPUT = _find("protein_plus.yaml", "examples/protein_plus.yaml")
