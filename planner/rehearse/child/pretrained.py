"""`from_pretrained` and `save_pretrained` of transformers: models without weights, and nothing written."""

import functools
import itertools
from pathlib import Path
from typing import Any

from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.models import Shelf, script_line, write_tensors
from planner.rehearse.child.settings import Refused
from planner.rehearse.child.steps import Steps

# Module, class, and whether its from_pretrained makes a model.
LOADERS = (
    ("transformers.modeling_utils", "PreTrainedModel", True),
    ("transformers.models.auto.auto_factory", "_BaseAutoModelClass", True),
    ("transformers.configuration_utils", "PreTrainedConfig", False),
    ("transformers.models.auto.configuration_auto", "AutoConfig", False),
    ("transformers.generation.configuration_utils", "GenerationConfig", False),
    ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase", False),
    ("transformers.models.auto.tokenization_auto", "AutoTokenizer", False),
    ("transformers.processing_utils", "ProcessorMixin", False),
    ("transformers.models.auto.processing_auto", "AutoProcessor", False),
    ("transformers.image_processing_base", "ImageProcessingMixin", False),
    ("transformers.models.auto.image_processing_auto", "AutoImageProcessor", False),
    ("transformers.feature_extraction_utils", "FeatureExtractionMixin", False),
)
SAVERS = (
    ("transformers.modeling_utils", "PreTrainedModel"),
    ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase"),
    ("transformers.processing_utils", "ProcessorMixin"),
    ("transformers.image_processing_base", "ImageProcessingMixin"),
)


def install(shelf: Shelf, steps: Steps, hooks: Hooks) -> None:
    """Wrap each class as soon as its module is there."""
    patches = _Patches(shelf, steps)
    for module, name, is_model in LOADERS:
        hooks.after(module, functools.partial(patches.load, name=name, is_model=is_model))
    if shelf.settings.save:
        return
    for module, name in SAVERS:
        hooks.after(module, functools.partial(patches.save, name=name))
    hooks.after("safetensors.torch", _write_nothing)
    hooks.after("llmcompressor.transformers.compression.compressed_tensors_utils", patches.save_compressed)


def _write_nothing(module: Any) -> None:
    """What is saved is gathered; its file has a header, and a hole for the rest."""

    def save_file(tensors: Any, filename: Any, *_rest: Any, **_named: Any) -> None:
        _copies = [each.to("cpu") for each in tensors.values() if each.is_cuda]  # safetensors/torch.py _tobytes
        write_tensors(Path(filename), tensors)

    module.save_file = save_file


class _Patches:
    def __init__(self, shelf: Shelf, steps: Steps) -> None:
        self.shelf, self.steps = shelf, steps
        self.depth = 0
        self.numbers = itertools.count()

    # ------------------------------------------------------------------ loading
    def load(self, module: Any, name: str, is_model: bool) -> None:
        owner = getattr(module, name, None)
        if owner is None:
            return
        raw = vars(owner)["from_pretrained"]
        own = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw

        @functools.wraps(own)
        def from_pretrained(cls: Any, *values: Any, **named: Any) -> Any:
            given = values[0] if values else named.pop("pretrained_model_name_or_path", None)
            if given is None:
                return own(cls, *values, **named)
            self._check(given, named)
            folder = self.shelf.folder(given)
            rest = values[1:]
            if not is_model or self.depth:
                return own(cls, str(folder), *rest, **named)
            return self._loaded(own, cls, folder, given, rest, named)

        owner.from_pretrained = classmethod(from_pretrained)

    def _loaded(self, own: Any, cls: Any, folder: Any, given: Any, values: Any, named: Any) -> Any:
        self.depth += 1
        self.steps.begin("load")
        try:
            loaded = own(cls, str(folder), *values, **named)
            self.shelf.emptied(loaded[0] if isinstance(loaded, tuple) else loaded, str(given))
        finally:
            self.depth -= 1
            self.steps.begin("script")
        return loaded

    def _check(self, given: Any, named: dict[str, Any]) -> None:
        if not named.get("trust_remote_code") or self.shelf.settings.trust_remote_code:
            return
        where = script_line(self.shelf.settings.script)
        raise Refused(f"{where}: {given} asks for trust_remote_code=True; --trust-remote-code lets it run code")

    # ------------------------------------------------------------------ saving
    def save(self, module: Any, name: str) -> None:
        owner = getattr(module, name, None)
        if owner is not None:
            owner.save_pretrained = self._aside(owner.save_pretrained, is_method=True)

    def save_compressed(self, module: Any) -> None:
        """LLM Compressor gives each model a save_pretrained of its own, which compresses first."""
        own = module.modify_save_pretrained

        @functools.wraps(own)
        def modify_save_pretrained(model: Any, *values: Any, **named: Any) -> Any:
            result = own(model, *values, **named)
            model.save_pretrained = self._aside(model.save_pretrained, is_method=False)
            return result

        module.modify_save_pretrained = modify_save_pretrained

    def _aside(self, own: Any, is_method: bool) -> Any:
        """The same into a folder that is deleted; as a step of its own where it is a model's."""

        @functools.wraps(own)
        def save_pretrained(*values: Any, **named: Any) -> Any:
            head, rest = values[: int(is_method)], values[int(is_method) :]
            given = rest[0] if rest else named.pop("save_directory", "")
            if self.depth or str(given).startswith(str(self.shelf.settings.folder)):
                return own(*head, given, *rest[1:], **named)
            aside = self.shelf.settings.folder / "saved" / str(next(self.numbers))
            aside.mkdir(parents=True, exist_ok=True)
            is_step = not is_method and self.steps.phase == "script"
            if is_step:
                self.steps.begin("save")
            try:
                return own(*head, str(aside), *rest[1:], **named)
            finally:
                if is_step:
                    self.steps.begin("script")

        return save_pretrained


__all__ = ["Refused", "install"]
