"""What AutoRound makes of a scheme: autoround/base.py `_mapping_config_to_autoround` and the package's own presets.

A preset that both know under one name is AutoRound's own (auto_round/schemes.py PRESET_SCHEMES); every other scheme is
converted, number by number (`_quant_scheme_to_autoround_config`). Inputs that are quantized dynamically by a converted
scheme are left alone while it trains.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from planner.errors import RecipeError, UnsupportedError
from planner.models.tuned import LinearTuning, Rounding
from planner.recipe.schemes import QuantizationFields
from planner.recipe.specs import QuantArgs, Scheme

AUTO = "auto"
"""`device_ids` for all GPUs."""
CUDA = "cuda:"

_MX = {"weights": "mx_fp", "group": 32, "inputs": "mx_fp", "input_group": 32}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "W4A16": {"weights": "int_sym", "bits": 4, "group": 128},
    "W8A16": {"weights": "int_sym", "bits": 8, "group": 128},
    "MXFP4": {**_MX, "bits": 4, "input_bits": 4},
    "MXFP8": {**_MX, "bits": 8, "input_bits": 8},
    "NVFP4": {
        "weights": "nv_fp",
        "bits": 4,
        "group": 16,
        "inputs": "nv_fp",
        "input_bits": 4,
        "input_group": 16,
        "static": True,
        "global_range": True,
    },
    "INT8": {"weights": "int_sym", "bits": 8, "group": -1, "inputs": "int_sym", "input_bits": 8, "input_group": -1},
}
"""auto_round/schemes.py PRESET_SCHEMES, those that compressed-tensors has under the same name."""


class AutoRoundFields(QuantizationFields):
    """Fields of AutoRoundModifier (modifiers/autoround/base.py)."""

    iters: int = Field(default=200, ge=0)
    enable_torch_compile: bool = True
    batch_size: int = Field(default=8, ge=1)
    lr: float | None = None
    device_ids: str | None = None
    disable_opt_rtn: bool = False


def linear_tuning(preset: str | None, scheme: Scheme) -> LinearTuning:
    """How a Linear of this scheme is trained. Raises RecipeError where AutoRound has no function for it."""
    if preset is not None and preset in PRESETS:
        return LinearTuning(**PRESETS[preset])
    weights, inputs = scheme.weights, scheme.input_activations
    if weights is None:
        raise RecipeError("AutoRound needs a scheme for weights", scheme.where)
    if scheme.output_activations is not None:
        raise RecipeError("AutoRound quantizes no outputs", f"{scheme.where}.output_activations")
    return LinearTuning(
        weights=_weights(weights, scheme.where),
        bits=weights.num_bits,
        group=_group(weights, scheme.where),
        **(_inputs(inputs, scheme.where) if inputs is not None and inputs.dynamic is False else {}),
    )


def rounding(preset: str | None, first: LinearTuning, *, searches: bool) -> Rounding:
    """How layers are rounded that are not trained: auto_round/autoround.py `_select_rtn_compressor_base_cls`.

    The first scheme decides whether samples go through a layer before, as inputs of a static range need; `searches` is
    false with `disable_opt_rtn`. A W8A16 that AutoRound knows by name is searched for as fewer bits are.
    """
    weighs = first.weights == "int_sym" and (first.bits < 8 or (preset or "").startswith("W"))
    sees_data = (searches and weighs) or first.static
    return Rounding(sees_data=sees_data, searches=searches)


def gpus_of(device_ids: str | None, where: str) -> tuple[int, ...]:
    """The numbers of the GPUs that `device_ids` names, in their order; the first for None, and for `auto`, which means
    all that there are.

    auto_round utils/device.py parse_available_devices, of what utils/device_manager.py DeviceManager.configure leaves:
    no spaces. Raises RecipeError for what are no numbers, and where the first is not the first GPU: apply_autoround
    takes norms there (utils/dev.py get_main_device), and AutoRound the samples to the first that is named
    (utils/device_manager.py get_major_device). UnsupportedError where the two read another GPU first.
    """
    if device_ids is None or device_ids == AUTO:
        return (0,)
    text = device_ids.replace(" ", "")
    named = _named(text)
    if not named or not all(name.startswith(CUDA) and name.removeprefix(CUDA).isdigit() for name in named):
        raise RecipeError(f"{device_ids}: give numbers of GPUs, like 0,1", where)
    numbers = [int(name.removeprefix(CUDA)) for name in named]
    major = text.split(",")[0].rsplit(":", 1)[-1]
    first = int(major) if major.isdigit() else 0
    if first:
        raise RecipeError(
            f"LLM Compressor stops at the first layer: its norms are on GPU 0, and samples on GPU {first}, which "
            "is named first; name 0 first",
            where,
        )
    if numbers[0] or len(set(numbers)) < len(numbers):
        read = " and ".join(f"GPU {number}" for number in numbers)
        raise UnsupportedError(
            f"{where}: AutoRound reads {device_ids} as {read}, which planner does not follow; give each once, and all "
            "as numbers, like 0,1"
        )
    return tuple(numbers)


def _named(text: str) -> list[str]:
    """parse_available_devices where there is CUDA: beside names with a colon, those without one are passed over."""
    if ":" in text and "," in text:
        values = [part.split(":", 1)[1] for part in text.split(",") if ":" in part]
        return [CUDA + value if value.isdigit() else value for value in values]
    parts = [part for part in text.split(",") if part]
    named = (CUDA + part if part.isdigit() else f"{CUDA}0" if part == "cuda" else part for part in parts)
    return list(dict.fromkeys(named))


def _weights(args: QuantArgs, where: str) -> Any:
    """data_type/utils.py get_quant_func."""
    if args.type == "int":
        return "int_sym" if args.symmetric else "int_asym"
    if args.num_bits != 8:
        raise RecipeError(
            f"AutoRound has no function for floats of {args.num_bits} bits here; it takes NVFP4 and MXFP4 by name "
            "(scheme: NVFP4)",
            f"{where}.weights",
        )
    return "fp8"


def _group(args: QuantArgs, where: str) -> int:
    """base.py `_quant_scheme_to_autoround_config`."""
    if args.group_size is not None:
        return args.group_size
    if args.strategy == "channel":
        return -1
    if args.strategy == "tensor":
        return 0
    raise RecipeError(
        f"LLM Compressor stops at the first layer: AutoRound takes channel, tensor or group_size, not {args.strategy}",
        f"{where}.weights",
    )


def _inputs(args: QuantArgs, where: str) -> dict[str, Any]:
    """The same for inputs whose range is static."""
    group = args.group_size
    if group is None:
        if args.strategy == "tensor":
            group = 0
        elif args.strategy in ("group", "channel", "token", "tensor_group"):
            group = -1
        else:
            raise RecipeError(f"AutoRound does not take the strategy {args.strategy}", f"{where}.input_activations")
    kind = "fp8" if args.type == "float" else "int_sym"
    return {"inputs": kind, "input_bits": args.num_bits, "input_group": group, "static": True}
