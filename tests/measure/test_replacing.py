"""What is replaced for a while is afterwards as before."""

from types import SimpleNamespace

import pytest

from planner.measure.replacing import replaced


class Library:
    @classmethod
    def name(cls) -> str:
        return cls.__name__


class Derived(Library):
    pass


def test_a_function_is_replaced_while_the_block_runs_and_put_back_after_an_error() -> None:
    module = SimpleNamespace(function=len)
    with pytest.raises(KeyError), replaced(module, "function", max):
        assert module.function is max
        raise KeyError
    assert module.function is len


def test_a_classmethod_is_put_back_unbound_so_that_subclasses_still_get_themselves() -> None:
    with replaced(Library, "name", classmethod(lambda _cls: "ours")):
        assert (Library.name(), Derived.name()) == ("ours", "ours")
    assert (Library.name(), Derived.name()) == ("Library", "Derived")


def test_an_inherited_name_is_inherited_again() -> None:
    with replaced(Derived, "name", classmethod(lambda _cls: "ours")):
        assert (Library.name(), Derived.name()) == ("Library", "ours")
    assert "name" not in vars(Derived)
    assert Derived.name() == "Derived"
