"""The table of observers: what its records say of each other."""

from planner.recipe.observers import DEFAULT, OBSERVERS
from planner.recipe.schemes import needs_data
from planner.recipe.specs import QuantArgs, Scheme


def test_an_alias_says_nothing_of_its_own_and_leads_to_an_observer_in_one_step() -> None:
    aliases = [observer for observer in OBSERVERS.values() if observer.alias_of is not None]
    assert aliases
    for alias in aliases:
        assert alias.alias_of is not None
        assert OBSERVERS[alias.alias_of].alias_of is None
        assert OBSERVERS[alias.alias_of].statistics == alias.statistics


def test_on_weights_an_observer_with_memory_gives_way_to_its_like_without() -> None:
    replaced = {name: observer for name, observer in OBSERVERS.items() if observer.on_weights is not None}
    assert replaced.keys() == {"minmax", "static_minmax", "mse"}
    for observer in replaced.values():
        assert observer.on_weights is not None
        assert OBSERVERS[observer.on_weights].statistics == observer.statistics
        assert OBSERVERS[observer.on_weights].combines == "newest" != observer.combines


def test_searches_try_at_least_one_range() -> None:
    searches = [o for o in OBSERVERS.values() if o.statistics == "mse" and o.alias_of is None]
    assert searches
    assert all(int(observer.maxshrink * observer.grid) > 0 for observer in searches)


def test_defaults_are_observers() -> None:
    assert set(DEFAULT.values()) <= OBSERVERS.keys()


def test_a_weight_asks_for_data_when_its_observer_does() -> None:
    for name, observer in OBSERVERS.items():
        args = QuantArgs(num_bits=4, type="int", symmetric=True, strategy="channel", observer=name)
        assert needs_data(Scheme(targets=("Linear",), weights=args)) is observer.needs_data
