"""Reads the files of a checkpoint: the headers of its safetensors and the index, never a weight."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.errors import ModelError
from planner.hints import few, shorten
from planner.modelfree.checkpoint import Checkpoint
from planner.sizing.saved import WIDTHS, SavedTensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER = 100_000_000
"""safetensors/src/tensor.rs MAX_HEADER_SIZE."""
LEFT_OUT = (".cache", ".gitattributes")
"""compressed_tensors utils/safetensors_load.py get_checkpoint_files."""


def folder_of(model: str) -> Path | None:
    """A folder that holds safetensors: the one that is named, or a Hub id's in the local cache. None without one."""
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return path if any(path.glob("*.safetensors")) else None
        if path.exists() or model.count("/") != 1:
            return None
    except (OSError, ValueError, RuntimeError):  # too long a name, no permission, ~nobody: no such folder
        return None
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        found = next(
            (
                hit
                for name in (INDEX, WEIGHTS)
                if isinstance(hit := huggingface_hub.try_to_load_from_cache(model, name), str)
            ),
            None,
        )
    except HFValidationError:
        return None
    return Path(found).parent if found is not None and any(Path(found).parent.glob("*.safetensors")) else None


def read_checkpoint(folder: Path, name: str) -> Checkpoint:
    """The files in a folder, as `get_weight_map` and `build_inverse_weight_maps` see them.

    Raises ModelError where the library would stop before its first shard: no index and no model.safetensors, an index
    that names files or tensors that are not there, files that no tensor of the index lies in.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    weights = {file: path for file, path in paths.items() if file.endswith(".safetensors")}
    headers = {file: dict(_header(path, f"{name}: {file}")) for file, path in weights.items()}
    index = next((path for file, path in paths.items() if file.endswith(".safetensors.index.json")), None)
    index = next((path for file, path in paths.items() if file.endswith(INDEX)), index)
    files = _indexed(index, headers, name) if index is not None else _single(headers, name)
    others = sum(path.stat().st_size for file, path in paths.items() if file not in weights)
    return Checkpoint(name=name, files=files, has_index=index is not None, other_bytes=others)


def _files(folder: Path) -> Iterator[Path]:
    """In the order in which the library finds them: safetensors_load.py _walk_directory_files; a Hub id's sorted."""
    is_cached = folder.parent.name == "snapshots"
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    for path in sorted(found) if is_cached else found:
        if not path.relative_to(folder).as_posix().startswith(LEFT_OUT):
            yield path


def _single(headers: dict[str, dict[str, SavedTensor]], name: str) -> dict[str, tuple[SavedTensor, ...]]:
    if WEIGHTS not in headers:
        raise ModelError(f"{name}: holds neither {INDEX} nor {WEIGHTS}, so LLM Compressor stops: it has {few(headers)}")
    if len(headers) > 1:
        others = few([file for file in headers if file != WEIGHTS])
        raise ModelError(f"{name}: without an index LLM Compressor knows {WEIGHTS} alone and stops at {others}")
    return {file: tuple(tensors.values()) for file, tensors in headers.items()}


def _indexed(index: Path, headers: dict[str, dict[str, SavedTensor]], name: str) -> dict[str, tuple[SavedTensor, ...]]:
    where = f"{name}: {index.name}"
    files: dict[str, list[SavedTensor]] = {file: [] for file in headers}
    for tensor, file in _weight_map(index, where).items():
        if file not in headers:
            raise ModelError(f"{where} names {shorten(file)}, which is not there: download it")
        if tensor not in headers[file]:
            raise ModelError(f"{where} has {shorten(tensor)} in {file}, which does not hold it")
        files[file].append(headers[file][tensor])
    if empty := [file for file, tensors in files.items() if not tensors]:
        raise ModelError(f"{where} has no tensor in {few(empty)}, where LLM Compressor stops: move the file away")
    return {file: tuple(tensors) for file, tensors in files.items()}


def _weight_map(index: Path, where: str) -> dict[str, str]:
    try:
        found: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where} cannot be read: it has no weight_map") from error
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise ModelError(f"{where}: weight_map must name a file for each tensor")
    return found


def _header(path: Path, where: str) -> Iterator[tuple[str, SavedTensor]]:
    """Tensors of a file, by name; a file without one is an error."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ModelError(f"{where}: not a safetensors file")
            header = json.loads(file.read(length))
        for name, entry in sorted(header.items()):
            if name != "__metadata__":
                if entry["dtype"] not in WIDTHS:
                    raise ModelError(
                        f"{where}: {shorten(name)} has the type {entry['dtype']}, which planner does not know"
                    )
                yield name, SavedTensor(name=name, type=entry["dtype"], shape=tuple(entry["shape"]))
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{where}: not a safetensors file") from error


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a folder; None where there is none that can be read."""
    try:
        found: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
