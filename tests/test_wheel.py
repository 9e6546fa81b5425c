"""The wheel carries everything: installed elsewhere, with no checkout near, it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def _run(site: Path, *words: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(site), "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_from_an_empty_folder(site: Path) -> None:
    assert str(site) in _run(site, "-c", "import sparklio; print(sparklio.__file__)")
    result = json.loads(_run(site, "-m", "sparklio", "run", "--json"))
    assert result["review"]["approved"]


def test_it_carries_config_samples_prompts_and_workflows(site: Path, tmp_path: Path) -> None:
    assert "provider_config.yaml" in _run(site, "-m", "sparklio", "init")
    assert (tmp_path / "provider_config.yaml").read_bytes() == (ROOT / "provider_config.yaml").read_bytes()
    assert (tmp_path / ".env").read_bytes() == (ROOT / ".env.example").read_bytes()
    assert {path.name for path in (site / "workflows").glob("*.json")} == {
        path.name for path in (ROOT / "workflows").glob("*.json")
    }
    assert not (site / "tests").exists()
