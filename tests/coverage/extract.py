"""Reads every recipe of LLM Compressor's own repository into recipes.json: those of its examples and of its tests.

    python -m tests.coverage.extract CHECKOUT COMMIT LIBRARY_PYTHON [LIBRARY_PATH]

CHECKOUT is a checkout of the repository at COMMIT, LIBRARY_PYTHON the interpreter of an environment with the real
library (tests/meter/setup.sh makes one; LIBRARY_PATH may add a folder with auto-round). Examples are Python and are run
with mocks for models and data (`listen.py`). Recipes of the tests are YAML and are read; test configs that name a
scheme alone stand for the modifier that the tests make of it (tests/e2e/e2e_utils.py).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.coverage.listen import OWN

HERE = Path(__file__).parent
RECIPES = HERE / "recipes.json"


def examples(checkout: Path, python: str, library_path: str) -> Iterator[dict[str, Any]]:
    """One row for each call of oneshot or model_free_ptq in an example; one with the error for a script without."""
    scripts = sorted(
        p.relative_to(checkout).as_posix() for p in (checkout / "examples").rglob("*.py") if "templates" not in p.parts
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": library_path}
    command = [python, str(HERE / "listen.py"), str(checkout), *scripts]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for line in filter(lambda line: line.startswith("{"), ran.stdout.splitlines()):
        heard = json.loads(line)
        if not heard["jobs"] and heard["failed"]:
            yield {"source": heard["script"], "failed": heard["failed"]}
        for job in heard["jobs"]:
            if isinstance(job.get("recipe"), str):  # recipe text inside the script
                job["recipe"] = yaml.safe_load(job["recipe"])
            if job.get("recipe", OWN) is not None:  # one example times calibration without a recipe
                yield {"source": heard["script"], **job}


def test_recipes(checkout: Path) -> Iterator[dict[str, Any]]:
    """One row for each recipe file of the tests, and for each test config that asks for a scheme without a recipe."""
    for path in sorted((checkout / "tests").rglob("*.y*ml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        source = path.relative_to(checkout).as_posix()
        if not isinstance(data, dict):
            continue
        if any(str(key).endswith("_stage") for key in data):
            yield {"source": source, "call": "oneshot", "recipe": data}
        elif data.get("entrypoint") == "model_free_ptq":
            arguments = {key: data[key] for key in ("scheme", "ignore") if key in data}
            yield {"source": source, "call": "model_free_ptq", "model": data["model"], "arguments": arguments}
        elif "scheme" in data and not data.get("recipe"):
            kind = "GPTQModifier" if data.get("quant_type") == "GPTQ" else "QuantizationModifier"
            fields = {"targets": "Linear", "scheme": data["scheme"], "ignore": data.get("ignore", ["lm_head"])}
            yield {"source": source, "call": "oneshot", "model": data.get("model"), "recipe": [{kind: fields}]}


def main(checkout: str, commit: str, python: str, library_path: str = "") -> None:
    root = Path(checkout).resolve()
    rows = [*examples(root, python, library_path), *test_recipes(root)]
    origin = {"repository": "vllm-project/llm-compressor", "commit": commit}
    text = ",\n".join(json.dumps(row) for row in rows)
    RECIPES.write_text(f'{{"origin": {json.dumps(origin)},\n"recipes": [\n{text}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
