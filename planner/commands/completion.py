"""What the shell offers after Tab: names that are shipped, each with a word about it. Without torch, so at once.

Where nothing that is shipped begins like this, the shell offers files instead.
"""

from collections.abc import Iterable, Iterator

Offer = tuple[str, str]
"""What is typed, and what zsh and fish show beside it."""


def models(incomplete: str) -> list[Offer]:
    """Presets."""
    from planner.models.source import list_presets

    return _beginning(incomplete, ((preset.name, preset.title) for preset in list_presets()))


def recipes(incomplete: str) -> list[Offer]:
    """Shipped recipes."""
    from planner.recipe.files import list_recipes

    return _beginning(incomplete, ((info.name, info.summary) for info in list_recipes()))


def gpus(incomplete: str) -> list[Offer]:
    """Cards, in the spelling that needs no quotes."""
    from planner.hardware import list_gpus
    from planner.units import GIB

    return _beginning(incomplete, ((plain(gpu.name), f"{gpu.memory_bytes / GIB:.2f} GiB") for gpu in list_gpus()))


def machines(incomplete: str) -> list[Offer]:
    """Machines that can be rented."""
    from planner.hardware.machines import list_machines

    rows = list_machines()
    return _beginning(incomplete, ((each.name, f"{each.gpus} x {each.gpu}") for each in rows if each.name))


def plain(card: str) -> str:
    """`RTX 4090` as `rtx4090`."""
    return card.lower().replace(" ", "")


def _beginning(incomplete: str, offers: Iterable[Offer]) -> list[Offer]:
    return list(dict(_matching(incomplete.lower(), offers)).items())


def _matching(start: str, offers: Iterable[Offer]) -> Iterator[Offer]:
    return ((name, about) for name, about in offers if name.lower().startswith(start))
