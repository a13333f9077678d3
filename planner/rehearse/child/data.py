"""Data sets that are not here become made-up ones of the size that the script asks for."""

import functools
import re
import uuid
from pathlib import Path
from typing import Any

from planner.rehearse.child.events import Events
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.settings import CAUSE, Settings
from planner.rehearse.child.texts import rows

FILES = ("json", "csv", "parquet", "text", "arrow", "imagefolder", "audiofolder", "pandas", "xml", "generator")
SAMPLES, TOKENS = 512, 2_048
"""Where the script does not say: what LLM Compressor's examples have."""
MARGIN = 16
"""Words beyond the script's length, so that it truncates to exactly that."""
MADE_UP = "made-up-"
"""Fingerprints of made-up data begin so."""
_SLICE = re.compile(r"\[\s*(\d*)\s*:\s*(\d+)\s*\]")


def install(settings: Settings, events: Events, hooks: Hooks) -> None:
    """Replace `load_dataset` as soon as the library is there."""
    hooks.after("llmcompressor.transformers.data.base", lambda module: _tell_kept_batches(module, events))
    if settings.real_data:
        return

    def hook(module: Any) -> None:
        module.load_dataset = _load(module, module.load_dataset, settings, events)
        if settings.most_samples:
            module.Dataset.select = _select(module.Dataset.select)

    hooks.after("datasets", hook)
    hooks.after("datasets.fingerprint", _hash_nothing)


def _tell_kept_batches(module: Any, events: Events) -> None:
    """llmcompressor/transformers/data/base.py tokenize takes the batch of one off what a processor returns as lists.

    One that returns tensors unasked (transformers/models/pixtral/processing_pixtral.py PixtralProcessorKwargs) keeps
    it, and the model may refuse what is then a dimension too many: on a real card, too.
    """
    own, told = getattr(getattr(module, "TextGenerationDataset", None), "tokenize", None), set()
    if own is None:
        return  # another release has it elsewhere

    @functools.wraps(own)
    def tokenize(dataset: Any, row: Any) -> Any:
        made = own(dataset, row)
        kept = [name for name, value in made.items() if hasattr(value, "dim") and value.dim() > 1 and len(value) == 1]
        processor = type(dataset.processor).__name__
        if kept and processor not in told and hasattr(dataset.processor, "tokenizer"):
            told.add(processor)
            text = f"{processor} returns tensors, and LLM Compressor takes the batch of one off lists alone"
            events.note(CAUSE, f"{text} (transformers/data/base.py tokenize): each sample's {', '.join(kept)} keep it.")
        return made

    module.TextGenerationDataset.tokenize = tokenize


def _hash_nothing(module: Any) -> None:
    """What becomes of made-up data is cached nowhere. To name a cache file, `map` would pickle all that the script's
    function refers to: a whole model, where that is a global of the script (datasets/fingerprint.py)."""
    own = module.update_fingerprint

    def update_fingerprint(fingerprint: str, transform: Any, transform_args: Any) -> Any:
        is_made_up = str(fingerprint).startswith(MADE_UP)
        return _fresh_fingerprint() if is_made_up else own(fingerprint, transform, transform_args)

    module.update_fingerprint = update_fingerprint


def _fresh_fingerprint() -> str:
    return MADE_UP + uuid.uuid4().hex


def _load(module: Any, own: Any, settings: Settings, events: Events) -> Any:
    told = set()

    def load_dataset(path: Any, name: Any = None, *values: Any, split: Any = None, **named: Any) -> Any:
        if str(path) in FILES or Path(str(path)).exists():
            return own(path, name, *values, split=split, **named)
        asked, words = _count(split, settings.samples), (settings.tokens or TOKENS) + MARGIN
        count = asked or SAMPLES
        count = min(count, settings.most_samples or count)
        if str(path) not in told:
            told.add(str(path))
            text = f"{path}: made-up data, {count:,} samples of {words:,} words (--real-data takes what is there)."
            events.note("data", text + _unfound(asked or settings.most_samples, settings.tokens))
        made = module.Dataset.from_dict(rows(str(path), count, words))
        made._fingerprint = _fresh_fingerprint()
        if split is None:
            made = module.DatasetDict(dict.fromkeys(("train", "validation", "test", "train_sft"), made))
        return made.to_iterable_dataset() if named.get("streaming") else made

    return load_dataset


def _select(own: Any) -> Any:
    """Of the rows that are asked for, those that there are: with fewer samples than the script wants."""

    @functools.wraps(own)
    def select(dataset: Any, indices: Any, *values: Any, **named: Any) -> Any:
        return own(dataset, [index for index in indices if index < len(dataset)], *values, **named)

    return select


def _unfound(samples: int | None, tokens: int | None) -> str:
    """Which of the sizes are not the script's own."""
    said = "" if samples else f" No number of samples was found in the script: {SAMPLES:,} is planner's default."
    return said + ("" if tokens else f" No length was found in the script: {TOKENS:,} tokens is planner's default.")


def _count(split: Any, otherwise: int | None) -> int | None:
    """Rows of `train[:512]` or `train[512:1024]`; of a whole split as many as the script uses."""
    found = _SLICE.search(str(split or ""))
    return int(found[2]) - int(found[1] or 0) if found else otherwise
