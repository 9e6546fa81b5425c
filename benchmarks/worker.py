"""Whole runs of Sparklio in one process: six agents, checkpoints on, result and page written.

::

    OLLAMA_BASE_URL=... COMFYUI_BASE_URL=... python benchmarks/worker.py --mode once|seq|conc --n N --warmup W

The last line is ``{"wall_s", "cpu_s", "walls": [...], "errors"}``: seconds of all measured runs together, CPU seconds
of the process over them, seconds of each run, and how many failed. Data goes into a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from timing import Job, arguments, main

from routing.contracts import Mode
from sparklio import Sparklio

BRAND = {"name": "프로틴플러스", "industry": "건강식품"}
PRODUCT = {
    "name": "프로틴플러스 초코맛",
    "category": "단백질 보충제",
    "target": "20-30대 직장인",
    "key_features": ["고단백 30g", "저당", "간편 쉐이크"],
    "facts": {"용량": "1kg", "가격": 39000},
}


@asynccontextmanager
async def opened(mode: Mode) -> AsyncGenerator[Job, None]:
    with tempfile.TemporaryDirectory() as home:
        async with Sparklio(mode=mode, home=home) as studio:
            yield lambda: studio.run(brand=BRAND, product=PRODUCT)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--generator", choices=("live", "mock"), default="live", help="GENERATOR_MODE of the runs")
    options = parser.parse_args()
    main(opened(options.generator), options)
