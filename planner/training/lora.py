"""Low-rank adapters: which matrices get one, and their weights."""

from collections.abc import Iterable
from fractions import Fraction

from planner.errors import JobError
from planner.formats.bitsandbytes import spreads_experts
from planner.formats.fused_experts import EXPERTS, GATE_UP, loaded_weights
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Weight
from planner.hints import did_you_mean, shorten
from planner.models.kinds import BESIDE_TEXT, TOWERS
from planner.training.schema import TrainMethod

ALL_LINEAR = "all-linear"
ROUTER = "gate.weight"

# transformers 5 conversion_mapping.py _MODEL_TO_CONVERSION_PATTERN: model types whose checkpoints are converted as
# Mixtral's or Qwen2-MoE's, and peft utils/transformers_weight_conversion.py _MOE_TARGET_MODULE_MAPPING: what the names
# of their old Linears stand for now.
_AS_MIXTRAL = frozenset({"mixtral", "minimax", "minimax_m2"})
_AS_QWEN2_MOE = frozenset(
    ("qwen2_moe", "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "glm4_moe",
     "glm4_moe_lite", "glm_moe_dsa", "glm4v_moe", "longcat_flash", "solar_open", "mellum", "qwen3_moe",
     "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_next", "hunyuan_v1_moe", "flex_olmo", "olmoe", "exaone_moe",
     "cohere2_moe")
)  # fmt: skip
_MIXTRAL_NAMES = {"gate": ROUTER, "w1": GATE_UP, "w3": GATE_UP, "w2": "down_proj"}
_QWEN2_MOE_NAMES = {"gate": ROUTER, "gate_proj": GATE_UP, "up_proj": GATE_UP, "down_proj": "down_proj"}


def target_weights(served: ServedModel, targets: str, method: TrainMethod = "lora") -> tuple[Weight, ...]:
    """The matrices that get an adapter: last parts of module names, or all-linear.

    peft tuners/tuners_utils.py match_target_against_key (a name, or the end of one after a dot) and
    _maybe_include_all_linear_layers (every Linear but the head). Of the text decoder alone. Fused experts get one
    where peft knows the names of their old Linears (_convert_peft_config_moe); Linears of these names get none then.
    Raises JobError for a name that matches nothing, or for one half of a fused tensor.
    """
    spread = method == "qlora" and spreads_experts(served)
    weights = served.weights if spread else loaded_weights(served)
    renamed = renamed_targets(served)
    linears = {w.name: w for w in weights if _is_target(w, spread=spread)}
    parameters = {w.name: w for w in weights if renamed and _is_parameter(w)}
    if targets.strip().lower() == ALL_LINEAR:
        chosen = {name for name, w in linears.items() if w.unit != "head" and _last(w) not in renamed} | set(parameters)
        if not chosen:
            raise JobError(f"--targets {ALL_LINEAR}: {served.name} has no Linear in its layers that takes an adapter")
    else:
        wanted = _wanted(targets)
        _whole(wanted, renamed)
        chosen = set()
        for name in wanted:
            new = renamed.get(name.rpartition(".")[2])
            found = _ending(parameters, new) if new else _ending({w.module: w for w in linears.values()}, name)
            if not found:
                raise _unknown(served.name, name, {_last(w) for w in linears.values()} | set(renamed))
            chosen |= found
    return tuple(w for w in weights if w.name in chosen)


def renamed_targets(served: ServedModel) -> dict[str, str]:
    """Old names of Linears that stand for fused experts and the router; empty where peft knows none.

    peft reads the whole model's type: that of a model with a tower is not its decoder's.
    """
    kind = served.model_type
    if any(w.unit in TOWERS for w in served.weights):
        kind = kind.removesuffix("_text") if kind.endswith("_text") else ""
    if not served.graph.fused_expert_bytes:
        return {}
    return _MIXTRAL_NAMES if kind in _AS_MIXTRAL else _QWEN2_MOE_NAMES if kind in _AS_QWEN2_MOE else {}


def is_parameter(weight: Weight) -> bool:
    """Adapted as a parameter: peft tuners/lora/layer.py ParamWrapper."""
    return EXPERTS in weight.classes or not (weight.is_linear or is_conv1d(weight))


def _is_target(weight: Weight, *, spread: bool) -> bool:
    """peft tuners_utils.py `linear_classes`: a Linear, a class made from it, or transformers' Conv1D."""
    if (weight.is_expert and not spread) or weight.unit in BESIDE_TEXT:
        return False
    return weight.is_linear or is_conv1d(weight)


def _is_parameter(weight: Weight) -> bool:
    last = weight.name.rpartition(".")[2]
    return (EXPERTS in weight.classes and last in (GATE_UP, "down_proj")) or weight.name.endswith(f".{ROUTER}")


def is_conv1d(weight: Weight) -> bool:
    """The matrix of transformers' Conv1D, which is (in, out)."""
    return "Conv1D" in weight.classes and len(weight.shape) == 2


def _last(weight: Weight) -> str:
    return weight.module.rpartition(".")[2]


def _wanted(targets: str) -> list[str]:
    if wanted := [name.strip() for name in targets.split(",") if name.strip()]:
        return wanted
    raise JobError("--targets: name Linears like q_proj,v_proj, or write all-linear")


def _whole(wanted: Iterable[str], renamed: dict[str, str]) -> None:
    halves = [old for old, new in renamed.items() if new == GATE_UP]
    given = {name.rpartition(".")[2] for name in wanted} & set(halves)
    if given and len(given) < len(halves):
        missing = ", ".join(sorted(set(halves) - given))
        raise JobError(f"--targets: {given.pop()} is one tensor with {missing} in this model; name both")


def _ending(named: dict[str, Weight], name: str) -> set[str]:
    return {w.name for full, w in named.items() if full == name or full.endswith(f".{name}")}


def _unknown(model: str, name: str, known: set[str]) -> JobError:
    hint = did_you_mean(name, sorted(known)) or f"; it has {', '.join(sorted(known))}"
    return JobError(f"--targets: no Linear of {model} is called {shorten(name)!r}{hint} (or all-linear)")


def adapter_shapes(targets: Iterable[Weight], rank: int) -> list[tuple[tuple[int, ...], int]]:
    """(shape, copies) of lora_A (rank, in) and lora_B (out, rank) of every target.

    peft tuners/lora/layer.py LoraLayer.update_layer; ParamWrapper.update_layer: rank x experts of a fused tensor, and
    twice that where two matrices are one (transformers_weight_conversion.py rank_pattern).
    """
    shapes: list[tuple[tuple[int, ...], int]] = []
    for weight in targets:
        rows, columns = reversed(weight.shape[-2:]) if is_conv1d(weight) else weight.shape[-2:]
        inner = rank_of(weight.name, rank) * (weight.shape[0] if len(weight.shape) == 3 else 1)
        shapes += [((inner, columns), weight.copies), ((rows, inner), weight.copies)]
    return shapes


def rank_of(name: str, rank: int) -> int:
    """The rank of the adapter on one expert or Linear: twice the one asked for where gate and up are one tensor."""
    return 2 * rank if name.endswith(f".experts.{GATE_UP}") else rank


def share(trained: int, parameters: int) -> float:
    """Percent of all weights that are trained, as peft prints it (print_trainable_parameters)."""
    return float(Fraction(100 * trained, parameters + trained))
