"""Sparklio: from a brand and a product to a finished product-detail page.

::

    from sparklio import Sparklio

    async with Sparklio() as studio:
        run = await studio.run(brand={"name": "..."}, product={"name": "...", "key_features": ["..."]})
        print(run.page_path)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graph.history import Point
    from graph.runs import Event
    from providers.errors import SparklioError
    from routing.runs_client import RunsClient
    from sparklio.studio import Run, Sparklio, run

__all__ = ["Event", "Point", "Run", "RunsClient", "Sparklio", "SparklioError", "__version__", "run"]

__version__ = "0.1.0"

_HOMES = {
    "Event": "graph.runs",
    "Point": "graph.history",
    "Run": "sparklio.studio",
    "RunsClient": "routing.runs_client",
    "Sparklio": "sparklio.studio",
    "SparklioError": "providers.errors",
    "run": "sparklio.studio",
}


def __getattr__(name: str) -> Any:
    """Names are imported at their first use: the command line needs this package, and not all that stands in it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
