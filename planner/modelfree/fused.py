"""Weights that share a global scale: which are loaded together, and which are scaled together.

llmcompressor/entrypoints/model_free/microscale.py, helpers.py match_names_set_eager. Names alone decide.
"""

import re
from collections.abc import Collection, Iterable, Sequence

from planner.errors import ModelError

PRIMARIES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (
        re.compile(r"^(?P<prefix>.+?)\.(?P<attn>attn|attention|self_attn|self_attention)\.q_proj\.weight$"),
        ("{prefix}.{attn}.k_proj.weight", "{prefix}.{attn}.v_proj.weight"),
    ),
    (
        re.compile(r"^(?P<prefix>.+?)\.(?P<attn>attn|attention|self_attn)\.wq_a\.weight$"),
        ("{prefix}.{attn}.wkv_a_with_mqa.weight",),
    ),
    (
        re.compile(r"^(?P<prefix>.+?)\.(?P<mlp>mlp|feed_forward)\.gate_proj\.weight$"),
        ("{prefix}.{mlp}.up_proj.weight",),
    ),
    (re.compile(r"^(?P<prefix>.+?)\.w1\.weight$"), ("{prefix}.w3.weight",)),
)
"""microscale.py DEFAULT_FUSED_MAPPINGS: the file that has the first tensor loads the others too."""

SETS: tuple[tuple[re.Pattern[str], ...], ...] = tuple(
    tuple(re.compile(pattern) for pattern in patterns)
    for patterns in (
        (
            r".*(attn|attention)\.q_proj\.weight$",
            r".*(attn|attention)\.k_proj\.weight$",
            r".*(attn|attention)\.v_proj\.weight$",
        ),
        (r".*(attn|attention)\.wq_a\.weight$", r".*(attn|attention)\.wkv_a_with_mqa\.weight$"),
        (r".*mlp\.gate_proj\.weight$", r".*mlp\.up_proj\.weight$"),
        (r".*w1\.weight$", r".*w3\.weight$"),
    )
)
"""microscale.py _DEFAULT_FUSED_MAPPINGS_LIST."""


def partners(name: str) -> tuple[str, ...]:
    """converter.py ModelFreePtqConverter.get_dependencies, of a scheme with global scales."""
    found: list[str] = []
    for pattern, templates in PRIMARIES:
        if match := pattern.match(name):
            found += [template.format(**match.groupdict()) for template in templates]
    return tuple(found)


def fused_sets(names: Iterable[str]) -> list[tuple[str, ...]]:
    """microscale.py get_fused_names. Raises ModelError where the library does: a part comes twice before its set is
    complete."""
    ordered = sorted(names, key=_natural)
    return [found for patterns in SETS for found in _sets(ordered, patterns)]


def _sets(names: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> list[tuple[str, ...]]:
    complete: list[tuple[str, ...]] = []
    matches: dict[int, str] = {}
    for name in names:
        for number, pattern in enumerate(patterns):
            if pattern.match(name) is None:
                continue
            if number in matches:
                raise ModelError(
                    f"{name} comes before the partners of {matches[number]}, with which it shares a global scale: LLM "
                    "Compressor stops there"
                )
            matches[number] = name
        if len(matches) == len(patterns):
            complete.append(tuple(matches[number] for number in range(len(patterns))))
            matches = {}
    return complete


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def known(name: str, names: Collection[str]) -> str:
    """The name, if the checkpoint has it. Raises ModelError as base.py build_inverse_weight_maps does."""
    if name not in names:
        raise ModelError(f"the checkpoint has no {name}, which is loaded with its partner: LLM Compressor stops there")
    return name
