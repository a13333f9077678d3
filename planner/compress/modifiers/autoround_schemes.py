"""What AutoRound makes of a scheme: autoround/base.py `_mapping_config_to_autoround` and the package's own presets.

A preset that both know under one name is AutoRound's own (auto_round/schemes.py PRESET_SCHEMES); every other scheme is
converted, number by number (`_quant_scheme_to_autoround_config`). Inputs that are quantized dynamically by a converted
scheme are left alone while it trains.
"""

from collections.abc import Mapping
from typing import Any

from planner.errors import RecipeError
from planner.models.tuned import LinearTuning, Rounding
from planner.recipe.specs import QuantArgs, Scheme

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


def cards_of(device_ids: str | None, where: str) -> int:
    """How many GPUs `device_ids` names: auto_round utils/device.py parse_available_devices.

    `auto` means all that there are: one. Raises RecipeError where the first is not the first GPU: apply_autoround takes
    norms there (utils/dev.py get_main_device), and AutoRound the samples to the first that is named.
    """
    named = list(dict.fromkeys(part.strip() for part in (device_ids or "").split(",") if part.strip()))
    if not named or named == ["auto"]:
        return 1
    numbers = ["0" if part == "cuda" else part.rsplit(":", 1)[-1] for part in named]
    if not all(number.isdigit() for number in numbers):
        raise RecipeError(f"{device_ids}: give numbers of GPUs, like 0,1", where)
    if int(numbers[0]):
        raise RecipeError(
            f"LLM Compressor stops at the first layer: its norms are on GPU 0, and samples on GPU {numbers[0]}, which "
            "is named first; name 0 first",
            where,
        )
    return len(dict.fromkeys(int(number) for number in numbers))


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
