"""Calls a function right after a module was imported, whoever imports it, and before anybody reads its names."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Hook = Callable[[Any], None]


class _HookedLoader(importlib.abc.Loader):
    """The module's own loader, and then the hooks."""

    def __init__(self, own: Any, hooks: Sequence[Hook]) -> None:
        self.own, self.hooks = own, hooks

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """What the module's own loader makes."""
        made: ModuleType | None = self.own.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then the hooks."""
        self.own.exec_module(module)
        for hook in self.hooks:
            hook(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


class Hooks(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it dresses what the other finders find."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Hook]] = {}
        self._searching: set[str] = set()

    def after(self, module: str, hook: Hook) -> None:
        """Call the hook when the module has been imported; at once where it has been already."""
        if module in sys.modules:
            hook(sys.modules[module])
        else:
            self.waiting.setdefault(module, []).append(hook)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders have, with the hooks behind its loader."""
        if fullname not in self.waiting or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _HookedLoader(spec.loader, self.waiting.pop(fullname))
        return spec

    def install(self) -> None:
        """Become the first finder."""
        sys.meta_path.insert(0, self)
