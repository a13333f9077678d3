"""Cuts the job into the plan's steps, by wrapping LLM Compressor's entry points when they are imported.

The same seven entry points as planner/measure/steps.py; one that a release does not have is passed over. What no
entry point covers is the step `script`, named after the mark that the script set last (`planner.mark`).
"""

import gc
import re
import sys
from collections.abc import Iterator
from typing import Any

from planner.rehearse.child.books import TensorBooks
from planner.rehearse.child.events import Events
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.passing import Passing
from planner.rehearse.child.settings import RETURNING
from planner.rehearse.child.trust import is_space_of_libraries

COLLECTED_BATCHES = 2
ARGUMENTS = {
    "samples": "num_calibration_samples",
    "seq_len": "max_seq_length",
    "batch_size": "batch_size",
    "pipeline": "pipeline",
    "sequential_targets": "sequential_targets",
    "targets_per_subgraph": "sequential_targets_per_subgraph",
    "offload_device": "sequential_offload_device",
    "propagate_error": "propagate_error",
    "prefetch": "sequential_prefetch",
    "loss_mask": "use_loss_mask",
    "calibrate_all_experts": "moe_calibrate_all_experts",
}
"""planner/job_arguments.py has the same; here nothing of planner can be imported but this folder."""
_DESCRIPTION = re.compile(r"\((\d+)/(\d+)\): (\w+)")
_AFTER_START = {"SequentialPipeline": "prepare", "BasicPipeline": "calibrate"}


class Steps:
    """Ends the open step and begins the next one, so that no moment is lost."""

    def __init__(self, books: TensorBooks, events: Events, most_samples: int | None = None) -> None:
        self._books, self._events, self._most_samples = books, events, most_samples
        self._count = 0
        self.modifier: str | None = None
        self.names: list[str] = []
        self.place: tuple[str, int | None, int | None] = ("script", None, None)
        self.marked = "script"

    @property
    def phase(self) -> str:
        """Of the open step."""
        return self.place[0]

    def begin(self, phase: str, subgraph: int | None = None, of: int | None = None) -> None:
        """End the open step and start one of this phase."""
        if self._events.is_ours:
            self.end()
            self.place = (phase, subgraph, of)

    def rename(self, phase: str) -> None:
        """The open step turns out to be of this phase, outside of the subgraphs."""
        self.place = (phase, None, None)

    def end(self, partial: bool = False) -> None:
        """Write the open step down."""
        phase, subgraph, of = self.place
        self._events.write(
            "step",
            number=self._count,
            modifier=None if phase == "script" else self.modifier,
            phase=phase,
            subgraph=subgraph,
            of=of,
            unit=self._unit(),
            partial=partial,
            **self._books.figures(),
        )
        self._books.mark(self._count)
        self._count += 1

    def tell_job(self, oneshot: Any) -> None:
        """Write down what an oneshot was asked for."""
        data, most = oneshot.dataset_args, self._most_samples
        if most and (data.num_calibration_samples or most + 1) > most:
            text = f"The job calibrates with {most} samples instead of {data.num_calibration_samples} (--samples)."
            self._events.note("data", text)
            data.num_calibration_samples = most
        facts = {name: getattr(data, field, None) for name, field in ARGUMENTS.items()}
        self._events.write("job", recipe=_recipe(oneshot), **facts)

    def _unit(self) -> str:
        phase, subgraph, _ = self.place
        if subgraph and subgraph <= len(self.names):
            return self.names[subgraph - 1]
        return {"script": self.marked, "prepare": "activation cache"}.get(phase, phase)


def watch(steps: Steps, passing: Passing, hooks: Hooks) -> None:
    """Wrap each entry point as soon as its module is there."""
    watcher = _EntryPoints(steps, passing)
    for module, hook in (
        ("llmcompressor.pipelines.registry", watcher.registry),
        ("llmcompressor.core.session_functions", watcher.callbacks),
        ("llmcompressor.pipelines.sequential.pipeline", watcher.sequential),
        ("llmcompressor.entrypoints.oneshot", watcher.entry),
    ):
        hooks.after(module, hook)


def _wrap(owner: Any, name: str, wrap: Any) -> None:
    """Replace `owner.name`, plain function or classmethod, by what `wrap` makes of it; pass over what is not there."""
    raw = vars(owner).get(name)
    if isinstance(raw, classmethod):
        setattr(owner, name, classmethod(wrap(raw.__func__)))
    elif raw is not None:
        setattr(owner, name, wrap(raw))


class _EntryPoints:
    def __init__(self, steps: Steps, passing: Passing) -> None:
        self.steps, self.passing = steps, passing
        self.pipeline = ""
        self.model: Any = None
        self._modules = 0

    def registry(self, module: Any) -> None:
        def wrap(function: Any) -> Any:
            def wrapped(cls: Any, modifiers: Any, *rest: Any, **named: Any) -> Any:
                pipeline = function(cls, modifiers, *rest, **named)
                if type(pipeline).__name__ != "IndependentPipeline":  # it only calls the others
                    self.pipeline = type(pipeline).__name__
                    if self.steps.phase == RETURNING:
                        self.steps.rename("setup")
                    elif self.steps.phase != "setup":
                        self.steps.begin("setup")
                    self.steps.modifier = "+".join(type(each).__name__ for each in modifiers)
                return pipeline

            return wrapped

        _wrap(module.CalibrationPipeline, "from_modifiers", wrap)

    def callbacks(self, module: Any) -> None:
        owner = module.LifecycleCallbacks
        _wrap(owner, "calibration_start", self._start)
        _wrap(owner, "calibration_epoch_start", self._start)
        _wrap(owner, "sequential_epoch_end", self._epoch_end)
        _wrap(owner, "calibration_end", self._end)
        _wrap(owner, "calibration_epoch_end", self._end)

    def _start(self, function: Any) -> Any:
        def wrapped(cls: Any, **named: Any) -> Any:
            result = function(cls, **named)
            _freeze()  # nor at observers and hooks, which each Linear of each expert has
            self.steps.begin(_AFTER_START.get(self.pipeline, "compress"))
            return result

        return wrapped

    def _epoch_end(self, function: Any) -> Any:
        def wrapped(cls: Any, *values: Any, **named: Any) -> Any:
            if self.pipeline == "BasicPipeline":
                self.steps.begin("compress")
            result = function(cls, *values, **named)
            self.steps.begin("between", *self.steps.place[1:])
            return result

        return wrapped

    def _let_go_of_removed_modules(self) -> None:
        """Experts that a modifier removed while the last subgraph was compressed refer to themselves in circles, and
        what is frozen is never collected; until that subgraph ends, their weights on the card are held, too."""
        count = _modules_of(self.model)
        if count < self._modules:
            gc.unfreeze()
            _freeze()
        self._modules = count

    def _end(self, function: Any) -> Any:
        def wrapped(cls: Any, **named: Any) -> Any:
            self.steps.rename("finalize")
            self.passing.end()
            result = function(cls, **named)
            gc.unfreeze()  # the next pipeline's first collection finds what this one's observers leave in circles
            self.steps.begin(RETURNING)
            return result

        return wrapped

    def sequential(self, module: Any) -> None:
        _wrap(module, "_get_batches", self._batches)
        _wrap(module, "trace_subgraphs", self._subgraphs)

    def _subgraphs(self, function: Any) -> Any:
        def wrapped(model: Any, sample: Any, targets: Any, *rest: Any, **named: Any) -> Any:
            subgraphs = function(model, sample, targets, *rest, **named)
            self.steps.names = subgraph_names(model, targets, subgraphs)
            self.passing.traced(model, subgraphs)
            _freeze()  # nor at the graphs
            return subgraphs

        return wrapped

    def _batches(self, function: Any) -> Any:
        def wrapped(activations: Any, count: int, names: Any, description: str, *rest: Any) -> Iterator[Any]:
            match = _DESCRIPTION.match(description)
            subgraph, of, word = (int(match[1]), int(match[2]), match[3]) if match else (None, None, description)
            phase = "calibrate" if word == "Calibrating" else "propagate"
            if phase == "calibrate":
                self._let_go_of_removed_modules()
            self.steps.begin(phase, subgraph, of)
            self.passing.subgraph = subgraph
            is_plain = not any(rest) and is_space_of_libraries(sys._getframe(1).f_globals)
            own = function(activations, count, names, description, *rest)
            batches = self.passing.batches(own, activations, is_plain=is_plain, hooks=word != "Propagating")
            for number, item in enumerate(batches):
                yield item
                if number < COLLECTED_BATCHES:  # a cycle of the first forward keeps its inputs until Python collects
                    gc.collect()
            self.steps.begin("compress" if phase == "calibrate" else "between", subgraph, of)

        return wrapped

    def entry(self, module: Any) -> None:
        _wrap(module, "post_process", self._post_process)
        if hasattr(module, "Oneshot"):
            _wrap(module.Oneshot, "__init__", self._oneshot_begins)
            _wrap(module.Oneshot, "__call__", self._oneshot_runs)

    def _oneshot_begins(self, function: Any) -> Any:
        def wrapped(oneshot: Any, *values: Any, **named: Any) -> None:
            self.steps.begin("setup")
            function(oneshot, *values, **named)

        return wrapped

    def _oneshot_runs(self, function: Any) -> Any:
        def wrapped(oneshot: Any, *values: Any, **named: Any) -> Any:
            _freeze()  # collections during the run need not look at the libraries and the model
            self.steps.tell_job(oneshot)
            self.model = getattr(oneshot, "model", None)
            self._modules = _modules_of(self.model)
            try:
                return function(oneshot, *values, **named)
            finally:
                self.model = None
                self.passing.end()
                gc.unfreeze()

        return wrapped

    def _post_process(self, function: Any) -> Any:
        def wrapped(*values: Any, **named: Any) -> Any:
            if named.get("output_dir"):
                self.steps.begin("save")
            result = function(*values, **named)
            self.steps.begin("script")
            return result

        return wrapped


def _freeze() -> None:
    """Collections from now on pass over all that is there."""
    gc.collect()
    gc.freeze()


def _modules_of(model: Any) -> int:
    """How many modules a model has; 0 for what is no model.

    What `modules()` yields, without its generators: a mixture of experts has 60,000, counted for each subgraph.
    """
    found, waiting = set(), [model] if hasattr(model, "modules") else []
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found.add(id(module))
            waiting.extend(module._modules.values())
    return len(found)


def _recipe(oneshot: Any) -> str:
    """The recipe in a few words: its file, or its modifiers."""
    recipe = getattr(oneshot, "recipe", None)
    if isinstance(recipe, str):
        return recipe if len(recipe) < 200 else "a recipe given as text"
    each = recipe if isinstance(recipe, list | tuple) else [recipe]
    return " + ".join(type(modifier).__name__ for modifier in each)


def subgraph_names(model: Any, targets: Any, subgraphs: Any) -> list[str]:
    """One name per subgraph, as in the plan: the sequential targets that it runs, or `head`."""
    from compressed_tensors.utils import match_named_modules

    matched = {name for name, _ in match_named_modules(model, targets)}
    names = []
    for number, subgraph in enumerate(subgraphs):
        called = dict.fromkeys(node.target for node in subgraph.graph.find_nodes(op="call_module"))
        inside = [name for name in called if name in matched]
        names.append(", ".join(inside) or ("head" if number == 0 else ", ".join(called) or f"subgraph {number + 1}"))
    return names
