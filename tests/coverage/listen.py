"""Runs example scripts of LLM Compressor with deaf ears: no model, no data, no network; prints the jobs they ask for.

Runs in the environment of the real library: `python listen.py CHECKOUT SCRIPT...`. Models, tokenizers, data and
whatever is not installed are mocks; modifiers and schemes are the real ones, so a job is what the library read. Prints
a JSON line a script: {"script", "jobs": [{"call", "model", "recipe" or "arguments", "options"}], "failed": message
or null}.
"""

import contextlib
import dataclasses
import enum
import importlib.abc
import importlib.machinery
import io
import json
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

OPTIONS = ("num_calibration_samples", "max_seq_length", "batch_size", "pipeline", "sequential_targets")
PRETENDED = ("qwen_vl_utils", "qwen_omni_utils", "PIL", "requests", "torchvision", "librosa", "soundfile", "auto_round")
SECONDS = 120
OWN = "of the script's own making"

Job = dict[str, Any]


class Mocks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that are not installed here: everything in them is a mock."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in PRETENDED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module: Any) -> None:
        """Nothing to run."""


def plain(value: Any) -> Any:
    """A modifier's field as a recipe file would have it."""
    if isinstance(value, MagicMock):
        return OWN
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(exclude_unset=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value) if " at 0x" not in str(value) else type(value).__name__  # a dtype; a converter


def written(recipe: Any) -> Any:
    """A recipe as a list of {modifier: fields}; the text or path that the script hands over; None for none."""
    if recipe is None or isinstance(recipe, str | Path):
        return None if recipe is None else str(recipe)
    modifiers = recipe if isinstance(recipe, list | tuple) else [recipe]
    return [{type(modifier).__name__: plain(modifier)} for modifier in modifiers]


class CompressedTensorsDequantizer:
    """In place of the library's, which reads the checkpoint's config from the Hub."""

    def __init__(self, *args: Any, **named: Any) -> None:
        """Whatever it is told."""


class Ears:
    """Stands where a script calls the library, and notes what it asks for."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.asked: str | None = None

    def from_pretrained(self, owner: type, name: Any = None, *args: Any, **named: Any) -> Any:
        self.asked = str(name)
        model = MagicMock(name=str(name))
        model.config.num_shared_experts = 0  # a number where an example looks for one
        return model

    def oneshot(self, *args: Any, **named: Any) -> Any:
        given = named.get("model")
        options = {key: plain(named[key]) for key in OPTIONS if isinstance(named.get(key), str | int | list)}
        model = given if isinstance(given, str) else self.asked
        self.jobs.append(
            {"call": "oneshot", "model": model, "recipe": written(named.get("recipe")), "options": options}
        )
        return MagicMock()

    def model_free_ptq(self, *args: Any, **named: Any) -> Any:
        model = str(named.pop("model_stub", args[0] if args else None))
        taken = {
            f"converter_{name}": plain(found)
            for name in ("targets", "ignore")
            if isinstance(found := getattr(named.get("converter"), name, None), list | tuple) and found
        }
        self.jobs.append({"call": "model_free_ptq", "model": model, "arguments": plain(named) | taken})
        return MagicMock()


def mock(*args: Any, **named: Any) -> Any:
    """Whatever is asked for."""
    del args, named
    return MagicMock()


def zero(*args: Any, **named: Any) -> int:
    """A count of nothing, a rank, a device index."""
    del args, named
    return 0


def one(*args: Any, **named: Any) -> int:
    """Of this many processes."""
    del args, named
    return 1


def named_only(repo_id: str, *args: Any, **named: Any) -> str:
    """The "folder" of a checkpoint that is not downloaded."""
    del args, named
    return repo_id


def opened(path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
    """A file that an earlier step of the script would have written: a JSON object with a dtype."""
    exists = Path(path).exists() and "w" not in mode
    return Path(path).open(mode, *args, **named) if exists else io.StringIO('{"dtype": null}')


def pretend(ears: Ears) -> None:
    """Put mocks and ears where scripts reach for models, data, devices and the library's entry points."""
    import datasets
    import huggingface_hub
    import torch
    import transformers

    for owner in _classes_with_models(transformers):
        owner.from_pretrained = classmethod(lambda owner, *args, **named: ears.from_pretrained(owner, *args, **named))
    for name in ("AutoTokenizer", "AutoProcessor", "AutoConfig", "PreTrainedConfig", "PreTrainedTokenizerBase"):
        getattr(transformers, name).from_pretrained = mock
    transformers.Llama4Processor = transformers.WhisperProcessor = MagicMock()
    huggingface_hub.snapshot_download = named_only
    datasets.load_dataset = mock
    for name in ("set_device_index", "reset_peak_memory_stats", "max_memory_allocated", "synchronize"):
        setattr(torch.accelerator, name, zero)
    for name, stand_in in (("get_rank", zero), ("get_world_size", one), ("is_initialized", zero)):
        setattr(torch.distributed, name, stand_in)
    torch.distributed.init_process_group = mock
    os.environ.setdefault("LOCAL_RANK", "0")
    _deafen_library(ears)
    with contextlib.suppress(ImportError):
        import auto_round.calib_dataset

        auto_round.calib_dataset.get_dataset = mock


def _classes_with_models(transformers: Any) -> Iterator[Any]:
    yield transformers.PreTrainedModel
    for name, auto in vars(transformers.models.auto.modeling_auto).items():
        if name.startswith(("Auto", "_BaseAuto")):
            yield auto


def _deafen_library(ears: Ears) -> None:
    stand_ins: dict[str, Callable[..., Any]] = dict.fromkeys(
        ("init_dist", "load_context", "convert_checkpoint", "dispatch_model"), mock
    )
    stand_ins |= {"oneshot": ears.oneshot, "model_free_ptq": ears.model_free_ptq, "load_context": MagicMock()}
    stand_ins["CompressedTensorsDequantizer"] = CompressedTensorsDequantizer
    for module in [m for name, m in sys.modules.items() if name.startswith(("llmcompressor", "compressed_tensors"))]:
        for name, stand_in in stand_ins.items():
            if callable(getattr(module, name, None)):
                setattr(module, name, stand_in)


def listen(script: str) -> dict[str, Any]:
    """What one script asks for, and with which error it ends, if it does; often after its jobs, over a mock."""
    ears = Ears()
    pretend(ears)
    sys.meta_path.append(Mocks())  # not before: transformers would take them for the real ones
    sys.argv, failed = [script], None
    try:
        runpy.run_path(script, {"open": opened}, "__main__")
    except BaseException as error:  # scripts exit as well as fail
        failed = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:300]
    return {"jobs": ears.jobs, "failed": failed}


def child(script: Path, results: Path) -> int:
    """Listens to one script in a process of its own: what it patches and imports is gone afterwards."""
    process = os.fork()
    if process:
        return process
    os.chdir(script.parent)
    signal.alarm(SECONDS)
    sys.stdout = sys.stderr = io.StringIO()
    results.write_text(json.dumps(listen(script.name)), encoding="utf-8")
    os._exit(0)


def main(root: Path, scripts: list[str]) -> None:
    importlib.import_module("llmcompressor")  # once, for all children

    with contextlib.suppress(ImportError):  # where auto-round is installed, the real one and none of its parts a mock
        importlib.import_module("llmcompressor.modifiers.autoround")
    for script in scripts:
        heard = {"jobs": [], "failed": "did not end"}
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "jobs.json"
            os.waitpid(child(root / script, results), 0)
            if results.exists():
                heard = json.loads(results.read_text(encoding="utf-8"))
        print(json.dumps({"script": script, **heard}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
