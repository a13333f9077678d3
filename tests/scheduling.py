"""Which tests share a worker (`pytest -n 2 --dist loadgroup`).

pytest-xdist 3.8 passes its groups on inside of test ids, which pytest 9.2 no longer lets it change
(github.com/pytest-dev/pytest-xdist/issues/1386): every test would be a group of its own, and each worker would build
every model. So the groups are made here, of the ids alone.
"""

import re
from functools import cache

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from planner.models.source import list_presets

# Files whose tests share nothing: each test goes to whichever worker is free.
APART = frozenset(
    {
        "tests/choose/test_stories.py",
        "tests/formats/test_compressed.py",
        "tests/models/test_touched.py",
        "tests/property/test_folding.py",
        "tests/serving/test_cache_layers.py",
        "tests/test_docs.py",
    }
)


LONG = "tests/choose/test_stories.py"
"""Some of its tests take as long as hundreds of others."""


class GroupScheduling(LoadScopeScheduling):
    """Gives a worker all tests of a model, which is built and traced once then, or of a file; large groups first, but
    for single tests that take long: what begins last is short, and the workers end together."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        long = next((group for group in self.workqueue if group.startswith(LONG)), None)
        if long is not None:
            self.workqueue.move_to_end(long, last=False)
        super()._assign_work_unit(node)


@cache
def group_of(nodeid: str) -> str:
    """The model that the test's parameters name, else its file, else the test itself."""
    path, _, name = nodeid.partition("::")
    parameters = name.partition("[")[2]
    named = _presets().search(parameters) if parameters else None
    if named:
        return named[0]
    return nodeid if path in APART else path


@cache
def _presets() -> re.Pattern[str]:
    names = sorted((preset.name for preset in list_presets()), key=len, reverse=True)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, names))})(?![\w.]|-\d+b)")
