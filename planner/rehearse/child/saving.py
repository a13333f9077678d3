"""What a script saves or sends: gathered, and neither written nor sent. `--save` writes; nothing sends."""

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.rehearse.child.events import Events
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.models import Shelf, write_tensors
from planner.rehearse.child.steps import Steps

MODEL = ("transformers.modeling_utils", "PreTrainedModel")
SAVERS = (
    MODEL,
    ("transformers.configuration_utils", "PreTrainedConfig"),
    ("transformers.configuration_utils", "PretrainedConfig"),  # transformers 4
    ("transformers.generation.configuration_utils", "GenerationConfig"),
    ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase"),
    ("transformers.processing_utils", "ProcessorMixin"),
    ("transformers.image_processing_base", "ImageProcessingMixin"),
    ("transformers.feature_extraction_utils", "FeatureExtractionMixin"),
)
SENDERS = (
    ("transformers.utils.hub", "PushToHubMixin"),
    *SAVERS,  # most have a copy of their own
    ("transformers.trainer", "Trainer"),
    ("datasets.arrow_dataset", "Dataset"),
    ("datasets.dataset_dict", "DatasetDict"),
    ("datasets.dataset_dict", "IterableDatasetDict"),
    ("datasets.iterable_dataset", "IterableDataset"),
)
OFFLOADING = "compressed_tensors.offload"
"""Files of this package are memory in another place: it reads them again, and deletes them."""
SENT = "push_to_hub: nothing is sent in a rehearsal."


def install(shelf: Shelf, steps: Steps, events: Events, hooks: Hooks, is_loading: Callable[[], bool]) -> None:
    """Wrap each class as soon as its module is there."""
    savings = _Savings(shelf, steps, events, is_loading)
    for owner in SENDERS:
        hooks.after(owner[0], functools.partial(savings.send, name=owner[1], is_model=owner == MODEL))
    for module, name in SAVERS:
        hooks.after(module, functools.partial(savings.save, name=name))
    if not shelf.settings.save:
        hooks.after("safetensors.torch", savings.save_file)
    hooks.after("llmcompressor.transformers.compression.compressed_tensors_utils", savings.save_compressed)


class _Savings:
    def __init__(self, shelf: Shelf, steps: Steps, events: Events, is_loading: Callable[[], bool]) -> None:
        self.shelf, self.steps, self.events, self.is_loading = shelf, steps, events, is_loading

    # ------------------------------------------------------------------ sending
    def send(self, module: Any, name: str, is_model: bool) -> None:
        owner = getattr(module, name, None)
        if owner is None or not hasattr(owner, "push_to_hub"):
            return

        @functools.wraps(owner.push_to_hub)
        def push_to_hub(sent: Any, *_values: Any, **_named: Any) -> str:
            self.events.note("data", SENT)
            if is_model and not self.shelf.settings.save:
                sent.save_pretrained("push_to_hub")  # what is sent is saved first: that takes memory
            return ""

        owner.push_to_hub = push_to_hub

    # ------------------------------------------------------------------ saving
    def save(self, module: Any, name: str) -> None:
        owner = getattr(module, name, None)
        if owner is not None:
            owner.save_pretrained = self._aside(owner.save_pretrained, is_method=True)

    def save_file(self, module: Any) -> None:
        """What is saved is gathered; its file has a header, and a hole for the rest."""

        def save_file(tensors: Any, filename: Any, *_rest: Any, **_named: Any) -> None:
            _copies = [each.to("cpu") for each in tensors.values() if each.is_cuda]  # safetensors/torch.py _tobytes
            path = Path(filename)
            caller = str(sys._getframe(1).f_globals.get("__name__"))
            if not self._is_ours(path) and not caller.startswith(OFFLOADING):
                self.events.note("data", f"{filename}: not written (--save writes it).")
                path = self.shelf.aside(path.parent) / path.name
            write_tensors(path, tensors)

        module.save_file = save_file

    def save_compressed(self, module: Any) -> None:
        """LLM Compressor gives each model a save_pretrained of its own, which compresses first."""
        own = module.modify_save_pretrained

        @functools.wraps(own)
        def modify_save_pretrained(model: Any, *values: Any, **named: Any) -> Any:
            result = own(model, *values, **named)
            model.save_pretrained = self._aside(model.save_pretrained, is_method=False)
            return result

        module.modify_save_pretrained = modify_save_pretrained

    def _is_ours(self, path: Any) -> bool:
        return Path(path).is_relative_to(self.shelf.settings.folder)

    def _aside(self, own: Any, is_method: bool) -> Any:
        """The same into a folder that is deleted, and sent to nobody; as a step of its own where it is a model's."""

        @functools.wraps(own)
        def save_pretrained(*values: Any, **named: Any) -> Any:
            values, named = self._unsent(inspect.signature(own, follow_wrapped=is_method), values, named)
            head, rest = values[: int(is_method)], values[int(is_method) :]
            given = rest[0] if rest else named.pop("save_directory", "")
            if self.shelf.settings.save or self.is_loading() or self._is_ours(given):
                return own(*head, given, *rest[1:], **named)
            aside = self.shelf.aside(given)
            is_step = not is_method and self.steps.phase == "script"
            if is_step:
                self.steps.begin("save")
            try:
                return own(*head, str(aside), *rest[1:], **named)
            finally:
                if is_step:
                    self.steps.begin("script")

        return save_pretrained

    def _unsent(self, takes: inspect.Signature, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """The arguments, push_to_hub being false among them."""
        names = list(takes.parameters)
        place = names.index("push_to_hub") if "push_to_hub" in names else len(values)
        asked = [named.pop("push_to_hub", False), *values[place : place + 1]]
        if any(asked):
            self.events.note("data", SENT)
        if place < len(values):
            values = (*values[:place], False, *values[place + 1 :])
        return values, named
