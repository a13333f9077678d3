"""The guides' rules, and every example that they work out, beside the code."""

from collections.abc import Sequence
from fractions import Fraction

from worked_examples import DOCUMENTS
from worked_examples.records import COUNT, Example, Reason, Value

from formula_sections.text import memory, plain, table
from planner.serving.rules_of_thumb import OPTIMIZER_STATES, OVERHEAD_SHARE, TEMPORARY_BUFFERS

_HEAD = ("where", "what is computed", "printed", "its formula gives", "the model itself", "of", "why not as printed")


def section() -> str:
    parts = ["## The guides' rules and worked examples\n", _rules(), _summary(), _reasons()]
    return "\n".join([*parts, *(_document(title, examples) for title, examples in DOCUMENTS.items())])


def _rules() -> str:
    low, high = (f"{float(share):g}" for share in OVERHEAD_SHARE)
    least, most = (f"{float(share):g}" for share in TEMPORARY_BUFFERS)
    states = ", ".join(f"{name} {times}" for name, times in OPTIMIZER_STATES.items())
    rows = (
        ("weights", f"`params x bits / 8 x (1 + overhead)`, overhead {low} to {high}", "weight_rule"),
        ("KV cache, multi-head", "`2 x batch x tokens x hidden x layers x bytes`", "kv_cache_rule"),
        ("KV cache, grouped", "`2 x batch x tokens x kv_heads x head_dim x layers x bytes`", "grouped_kv_cache_rule"),
        ("activations", "`batch x tokens x hidden x layers x 2`", "activation_rule"),
        ("total", "`weights + cache + activations + 1 to 2 GB`", "total_rule"),
        (
            "training",
            f"`weights x (1 + 1 for gradients + states + {least} to {most} for buffers)`, states: {states}",
            "training_rule",
        ),
    )
    return (
        "### Rules\n\nThe second method of `planner serve` and `planner train`, as the guides have them. Where each is "
        "wrong stands in its docstring.\nSource: `planner/serving/rules_of_thumb.py`. All in bytes.\n\n"
        + table(("what", "rule", "function"), rows, left=3)
    )


def _summary() -> str:
    rows = []
    for title, examples in (*DOCUMENTS.items(), ("all", [e for found in DOCUMENTS.values() for e in found])):
        formulas = [example for example in examples if example.formula is not None]
        own = [example for example in examples if example.real is not None]
        good = sum(example.slip is None for example in formulas)
        true = sum(not example.why for example in own)
        rows.append((title, len(examples), f"{good} of {len(formulas)}", f"{true} of {len(own)}"))
    head = ("document", "examples", "printed is what its formula gives", "printed is what the model takes")
    return (
        "### Worked examples\n\nWhat five documents print, number by number. *Its formula* is the document's own, with "
        "its own inputs; *the model itself* comes\nfrom the model's tensors, cache layers, traced forward or a plan. A "
        "number agrees if it is within half of its last printed digit,\nand within a tenth. A test evaluates all of "
        "them and asks for a reason exactly where a number does not agree.\n\n" + table(head, rows)
    )


def _reasons() -> str:
    words = [(f"`{_name(reason)}`", reason.value) for reason in Reason]
    return "Reasons, in the last column of the tables:\n\n" + table(("reason", "meaning"), words, left=2)


def _document(title: str, examples: Sequence[Example]) -> str:
    return f"### {title}\n\n" + table(_HEAD, [_row(example) for example in examples], left=7)


def _row(example: Example) -> tuple[str, ...]:
    value = None if example.formula is None else example.formula()
    own = None if example.real is None else example.real()
    printed = f"{example.printed} {example.unit.name}".strip().replace("<=", "up to ")
    return (
        example.where,
        example.what + (f" ({' + '.join(example.parts)})" if example.parts else ""),
        printed,
        _cell(example, value),
        _cell(example, own),
        example.model or "-",
        _why(example),
    )


def _cell(example: Example, value: Value | None) -> str:
    """A number as the example's unit has it; memory in bytes, GB and GiB."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if example.unit.memory:
        return memory(value)
    scaled = Fraction(value) / example.unit.size
    return plain(scaled) if example.unit == COUNT else f"{plain(scaled)} {example.unit.name}"


def _why(example: Example) -> str:
    """The formula's reason and the model's; one that is both is said once."""
    found = dict.fromkeys((*((example.slip,) if example.slip else ()), *example.why))
    return ", ".join(f"`{_name(reason)}`" for reason in found) or "agrees"


def _name(reason: Reason) -> str:
    return reason.name.lower().replace("_", "-")
