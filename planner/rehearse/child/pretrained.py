"""`from_pretrained` of transformers: models without weights."""

import functools
import json
from pathlib import Path
from typing import Any

from planner.rehearse.child import saving
from planner.rehearse.child.events import Events
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.models import Shelf, script_line
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


def install(shelf: Shelf, steps: Steps, events: Events, hooks: Hooks) -> None:
    """Wrap each class as soon as its module is there."""
    patches = _Patches(shelf, steps)
    for module, name, is_model in LOADERS:
        hooks.after(module, functools.partial(patches.load, name=name, is_model=is_model))
    saving.install(shelf, steps, events, hooks, lambda: bool(patches.depth))


class _Patches:
    def __init__(self, shelf: Shelf, steps: Steps) -> None:
        self.shelf, self.steps = shelf, steps
        self.depth = 0

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
        if not (folder / "model.safetensors").exists():
            raise Refused(self._without_checkpoint(given, folder))
        self.depth += 1
        self.steps.begin("load")
        try:
            loaded = own(cls, str(folder), *values, **named)
            self.shelf.emptied(loaded[0] if isinstance(loaded, tuple) else loaded, str(given))
        finally:
            self.depth -= 1
            self.steps.begin("script")
        return loaded

    def _without_checkpoint(self, given: Any, folder: Path) -> str:
        where = f"{script_line(self.shelf.settings.script)}: {given}"
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if record.get("auto_map") and not self.shelf.settings.trust_remote_code:
            return f"{where} is code of its own: trust_remote_code=True in the script and --trust-remote-code run it"
        kinds = ", ".join(record.get("architectures") or ["none"])
        return f"{where}: config.json names no class that this transformers has (architectures: {kinds})"

    def _check(self, given: Any, named: dict[str, Any]) -> None:
        if not named.get("trust_remote_code") or self.shelf.settings.trust_remote_code:
            return
        where = script_line(self.shelf.settings.script)
        raise Refused(f"{where}: {given} asks for trust_remote_code=True; --trust-remote-code lets it run code")


__all__ = ["Refused", "install"]
