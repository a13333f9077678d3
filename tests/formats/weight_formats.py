"""The formats of this family of modules by name, whatever else there is."""

from importlib import import_module

from planner.formats.registry import Format

MODULES = tuple(
    import_module(f"planner.formats.{name}") for name in ("plain", "bitsandbytes", "compressed", "autogptq", "exllama")
)


def find_weights(name: str) -> Format:
    for module in MODULES:
        for form in module.formats():
            if name.lower() in (form.name.lower(), *(alias.lower() for alias in form.aliases)):
                return form
    return next(form for module in MODULES if (form := module.parse(name)) is not None)
