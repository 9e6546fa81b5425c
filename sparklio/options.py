"""Words that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AsJson", "RunId"]

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run; `sparklio runs` lists them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
