"""Chooses the class of transformers that a config is built as: the class of its checkpoint, or none.

LLM Compressor loads a path with AutoModelForCausalLM (entrypoints/utils.py initialize_model_from_path), its users
load vision-language models with AutoModelForImageTextToText, models that hear by their own class, which
AutoModelForMultimodalLM builds too (examples/multimodal_audio), and encoders with AutoModelForMaskedLM. These auto
classes ignore `architectures` in config.json (auto_factory.py _get_model_class goes by the config's class). So without
the checks here, a speech model would be planned as its decoder, and a classifier with a language model's head.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planner.errors import ModelError

CAUSAL, VISION, MASKED = "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMaskedLM"
MULTIMODAL = "AutoModelForMultimodalLM"
OF_REPOSITORY = (
    "code of the model's repository (trust_remote_code), which a plan never runs: "
    "`planner rehearse script.py --trust-remote-code` runs your script with it"
)

HEARING: Mapping[str, str] = {"qwen2_audio": "Qwen2AudioForConditionalGeneration"}
"""Model types that hear and are planned: those whose inputs planner.models.inputs knows."""

# Groups of name endings that mean the same head. Of a name that transformers does not know, only its ending counts.
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "WithLMHead", "Decoder")
_ENDINGS = (_CAUSAL_ENDINGS, ("ForConditionalGeneration",))


def auto_class(config: Any, name: str) -> Any:
    """The auto class of transformers that builds what `config` describes.

    Without `architectures`, this is the class with a vision tower where the config has one. Raises ModelError where
    transformers has no such class for the model, and where `architectures` names a class of another task.
    """
    import transformers

    choices = _choices(config)
    if not choices:
        raise ModelError(f"{name}: {_without_class(config)}")
    named = config.architectures or []
    # bart is among the masked ones too, with encoder and decoder
    masked = () if config.is_encoder_decoder else (MASKED,)
    chosen = next((auto for auto in (*choices, *masked) if set(_classes(auto, config)) & set(named)), None)
    if chosen is None:
        chosen, default = choices[0], _classes(choices[0], config)[0]
        if named and not _is_loaded_as(named, default, config.model_type):
            raise ModelError(
                f"{name}: architectures in config.json names {named[0]!r:.100}, which planner does not plan; it plans "
                f"what {CAUSAL}, {VISION} and {MASKED} load: for {default} alone, write that into architectures"
            )
    return getattr(transformers, chosen)


def _without_class(config: Any) -> str:
    """Why nothing here builds the config: it hears, or transformers has no language model of this kind."""
    hearing = sorted(_names("MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", config.model_type))
    if not hearing:
        text = "transformers has neither a causal language model nor an image-text-to-text model"
        own = "is" if getattr(config, "auto_map", None) else "may be"
        is_elsewhere = own == "is" or not _names("MODEL_MAPPING_NAMES", config.model_type)
        of_repository = f"; its class {own} {OF_REPOSITORY}" if is_elsewhere else ""
        return f"{text} of model_type {config.model_type!r}{of_repository}"
    text = (
        f"planner plans models that read and see, and of those that hear {', '.join(HEARING)} alone, not {hearing[0]}"
    )
    thinker = getattr(config, "thinker_config", None)
    return (
        text if thinker is None else f"{text}; of this one it plans the thinker, from a config.json of thinker_config"
    )


def class_notes(named: Sequence[str], config: Any, built: str) -> Iterator[str]:
    """What to tell the reader where `built` is not the class that config.json names, or where it names none."""
    if named and built not in named:
        headless = named[0] in _names("MODEL_MAPPING_NAMES", config.model_type)
        what = "the model without its head" if headless else "which transformers does not have for this model_type"
        yield (
            f"config.json names the class {named[0]!r:.100}, {what}: planned as {built}, which transformers loads for "
            f"model_type {config.model_type}."
        )
    if not named and type(config).is_encoder_decoder and built.endswith(_CAUSAL_ENDINGS):
        yield (
            f"config.json names no class (architectures): planned as {built}, the decoder alone, which {CAUSAL} loads "
            f"for model_type {config.model_type}."
        )


def _choices(config: Any) -> list[str]:
    """Auto classes that load this config for LLM Compressor, the usual one first."""
    vision = getattr(config, "vision_config", None) is not None
    usual = (VISION, CAUSAL) if vision else (CAUSAL, VISION)
    hearing = (MULTIMODAL,) if config.model_type in HEARING else ()
    return [auto for auto in (*usual, *hearing) if _classes(auto, config)]


def _classes(auto: str, config: Any) -> tuple[str, ...]:
    """Names of the classes that this auto class builds from the config; empty where it builds none."""
    import transformers

    mapping = getattr(transformers, auto)._model_mapping
    if type(config) not in mapping:
        return ()
    classes = mapping[type(config)]
    return tuple(each.__name__ for each in (classes if isinstance(classes, tuple | list) else (classes,)))


def _is_loaded_as(named: Sequence[str], default: str, model_type: str) -> bool:
    """Whether a checkpoint of a class with one of these names is what `default` loads.

    True for the model without its head. Also true for a name that transformers gives to no class of this model_type, if
    it ends as `default` does: `MPTForCausalLM` is transformers' MptForCausalLM.
    """
    if set(named) & _names("MODEL_MAPPING_NAMES", model_type):
        return True
    endings = next((endings for endings in _ENDINGS if default.endswith(endings)), (default,))
    return any(each.endswith(endings) and each not in _names("", model_type) for each in named)


def _names(table: str, model_type: str) -> set[str]:
    """Names of transformers' classes for this model_type in the given table; with an empty name, in all tables."""
    from transformers.models.auto import modeling_auto

    tables = [table] if table else [name for name in vars(modeling_auto) if name.endswith("_MAPPING_NAMES")]
    entries = [vars(modeling_auto)[name].get(model_type, ()) for name in tables if name != "CONFIG_MAPPING_NAMES"]
    return {each for entry in entries for each in ((entry,) if isinstance(entry, str) else entry)}
