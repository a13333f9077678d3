"""Models without weights: a folder that `from_pretrained` takes, whose checkpoint is a hole in a file.

Config and tokenizer are the user's where they are on this machine (a folder, the Hub's cache); the config of a preset
is planner's own. Everything else of `from_pretrained` is the library's own code.
"""

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import torch

from planner.rehearse.child.books import TensorBooks
from planner.rehearse.child.events import Events
from planner.rehearse.child.settings import Refused, Settings
from planner.rehearse.child.texts import write_processor, write_tokenizer

PRESETS = Path(__file__).resolve().parents[2] / "models" / "presets"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model*",
    "vocab.*",
    "tekken.json",
    "*spiece.model",
    "tiktoken.model",
    "spm.model",
    "sentencepiece*",
)
"""Files that hold a vocabulary: `vocab_files_names` of the tokenizers of transformers, and Mistral's own."""
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
COPIED = 2**26
"""Bytes of the largest file that is copied."""
DTYPES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


class Shelf:
    """Prepared folders, one for each model that the script names."""

    def __init__(self, settings: Settings, books: TensorBooks, events: Events) -> None:
        self.settings, self._books, self._events = settings, books, events
        self._folders: dict[str, Path] = {}
        self._saved: dict[Path, Path] = {}

    def folder(self, name: Any) -> Path:
        """The folder for a model's name or path.

        Its checkpoint is written with the folder, whatever is asked for first: later the library may have put other
        classes in the place of the model's (llmcompressor's load_context). Raises Refused where there is no config of
        this name.
        """
        text = str(name)
        if any(text == str(folder) for folder in self._folders.values()):
            return Path(text)
        folder = self._folders.get(text)
        if folder is None:
            folder = self._folders[text] = self._prepare(text)
            write_hole(folder, text, self.settings.trust_remote_code)
        return folder

    def name_of(self, folder: Path) -> str:
        """What the script calls the model of this folder."""
        return next((name for name, each in self._folders.items() if each == folder), str(folder))

    def in_words_of_the_script(self, text: str) -> str:
        """The text with the script's names for models in the place of their folders here."""
        for name, folder in reversed(self._folders.items()):  # models/10 before models/1
            text = text.replace(str(folder), name)
        return text

    def aside(self, target: Any) -> Path:
        """The folder that takes what the script writes into this one; deleted with the rehearsal."""
        path = Path(target).absolute()
        if path not in self._saved:
            self._saved[path] = self.settings.folder / "saved" / str(len(self._saved))
            self._saved[path].mkdir(parents=True)
        return self._saved[path]

    def _prepare(self, name: str) -> Path:
        folder = self.settings.folder / "models" / str(len(self._folders))
        folder.mkdir(parents=True)
        source = self._source(name)
        if source is not None:
            for path in source.iterdir():
                if path.is_file() and not path.name.endswith(WEIGHTS):
                    _take(path, folder / path.name)
        else:
            config = preset_config(name)
            if config is None:
                raise Refused(
                    f"{name}: no folder, not in the Hub's cache, no preset; a rehearsal downloads nothing, so put its "
                    "config.json into a folder and name that, or fetch it once (hf download NAME config.json)"
                )
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not _has(folder, TOKENIZERS):
            write_tokenizer(folder, config)
            self._events.note("data", f"{name}: its tokenizer is not here; a made-up one takes one word for a token.")
        if "vision_config" in config and not _has(folder, PROCESSORS):
            write_processor(folder, config)
        return folder

    def _source(self, name: str) -> Path | None:
        """The user's own files of this model."""
        path = Path(name).expanduser()
        saved = self._saved.get(path.absolute())
        if saved is not None and (saved / "config.json").is_file() and not any(saved.glob("*.safetensors")):
            return saved  # a config that the script made itself
        if (path / "config.json").is_file():
            return path
        try:
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(name, "config.json")
        except Exception:  # not a Hub id; whatever the library says of it
            return None
        return Path(found).parent if isinstance(found, str) else None

    def emptied(self, model: Any, name: str) -> Any:
        """The loaded model: what lies on the CPU has addresses of its own and no values."""
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.device.type == "cpu":
                    tensor.data = torch.empty_like(tensor.data)
                    self._books.unknown(tensor)
        self._tell(model, name)
        return model

    def _tell(self, model: Any, name: str) -> None:
        weights = {id(each): each for each in model.parameters()}.values()
        config = model.config.get_text_config(decoder=True)
        experts = next(
            (
                count
                for key in ("num_local_experts", "moe_num_experts", "num_experts", "n_routed_experts")
                if (count := getattr(config, key, None))
            ),
            0,
        )
        if experts:
            self._books.selected(1 / experts)
        self._events.write(
            "model",
            name=name,
            architecture=type(model).__name__,
            parameters=sum(each.numel() for each in weights),
            bytes=sum(each.nbytes for each in weights),
            dtype=str(next(iter(weights)).dtype).removeprefix("torch."),
        )


def _take(path: Path, to: Path) -> None:
    """A copy of the user's file, so that nobody writes through to it; of what no tokenizer is as large as, a link."""
    if path.stat().st_size <= COPIED:
        shutil.copyfile(path, to)
    else:
        to.symlink_to(path.resolve())


def _has(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(any(folder.glob(each)) for each in patterns)


def preset_config(name: str) -> dict[str, Any] | None:
    """The config of the preset that answers to this name."""
    for path in PRESETS.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        names = (record["name"], record["hub_id"], *record["aliases"])
        if name.lower() in {text.lower() for each in names for text in (each, each.rpartition("/")[2])}:
            config: dict[str, Any] = record["config"]
            return config
    return None


def write_hole(folder: Path, model: str, trusted: bool) -> None:
    """The checkpoint: a header that names every tensor, and a hole in the place of their bytes.

    None where the config names no class, or one whose code may not run. Raises Refused where the class does not build.
    """
    import transformers

    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own_code: dict[str, Any] = (record.get("auto_map") or {}) if trusted else {}
    if not own_code and not _is_known(record):
        return
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=bool(own_code))
    name = (getattr(config, "architectures", None) or ["none"])[0]
    owner = _own_class(folder, name, own_code) or getattr(transformers, name, None)
    if owner is None:
        return  # a tokenizer's folder, or a class that no installed library has
    before = torch.get_default_dtype()
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
    torch.set_default_dtype(dtype if isinstance(dtype, torch.dtype) else torch.bfloat16)
    try:
        with torch.device("meta"), _no_init():
            built = owner._from_config(config)
    except Exception as error:
        if not own_code:
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Refused(f"{model}: its own code does not build {name} on the meta device ({text})") from error
    finally:
        torch.set_default_dtype(before)
    built.tie_weights()
    write_tensors(folder / "model.safetensors", _as_saved(built))


def _is_known(record: dict[str, Any]) -> bool:
    """Transformers has a config class of this kind; a config without a kind is left to the library."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return not record.get("auto_map") or record.get("model_type") in CONFIG_MAPPING


def _own_class(folder: Path, name: str, own_code: dict[str, Any]) -> Any:
    """The class of the repository's own code (transformers' dynamic_module_utils.py), where it has one of this name."""
    texts = (each for value in own_code.values() for each in (value if isinstance(value, list) else [value]))
    reference = next((each for each in texts if each and each.endswith(f".{name}")), None)
    if reference is None:
        return None
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    return get_class_from_dynamic_module(reference, str(folder))


def _no_init() -> Any:
    """Weights are not initialised: there are none."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # transformers 4
        from transformers.modeling_utils import no_init_weights  # type: ignore[attr-defined,no-redef,unused-ignore]  # one of the two releases is installed
    return no_init_weights()


def _as_saved(model: Any) -> dict[str, Any]:
    """The tensors under the names and in the shapes that the model's checkpoints have."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    tensors: dict[str, Any] = {name: each for name, each in model.state_dict().items() if name not in tied}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 has none
        return tensors
    reverted: dict[str, Any] = revert_weight_conversion(model, tensors)
    return reverted


def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """A safetensors file of these names, shapes and dtypes, that takes no room on the disk."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        offsets = [end, end + tensor.numel() * tensor.element_size()]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def script_line(script: str) -> str:
    """Where in the script the running call stands: `file.py:12`."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == script:
            return f"{Path(script).name}:{frame.f_lineno}"
        frame = frame.f_back
    return Path(script).name
