"""What an album keeps of steps: equal events once, whoever holds the bytes."""

from planner.compress.holdings import About, Owner
from planner.compress.watching import NOTHING, StepLog
from planner.pictures.condense import Album


def log(layer: str, first: int, nbytes: int = 8) -> StepLog:
    """A step that takes two tensors of this layer and frees one, with handles from `first` on."""
    owners = Owner(f"{layer}.up"), Owner(f"{layer}.down")
    about = {first + place: About("gpu", "weights", owner) for place, owner in enumerate(owners)}
    return StepLog(
        device="gpu",
        modifier=None,
        opening={},
        events=((first, 4, 1), (first + 1, nbytes, 1), (first, 4, -1)),
        ticks=(1, 2, 3),
        on_card=(NOTHING,),
        length=3,
        milestones=(),
        about=about.__getitem__,
        form=lambda _handle: None,
    )


def names(album: Album, step: int) -> list[str]:
    kept, owners = album.steps[step], [owner.name for owner, *_ in album.whats]
    numbers, place = [], 0
    for gap in kept.whats or album.curves[kept.curves].whats:
        place += gap
        numbers.append(place)
    return [owners[number] for number in numbers]


def test_steps_with_equal_events_share_their_curves_under_their_own_names() -> None:
    album = Album()
    for step in (log("layers.0", 10), log("layers.1", 70), log("layers.1", 90, nbytes=16)):
        album.see(step)
    assert [kept.curves for kept in album.steps] == [0, 0, 1]
    assert album.steps[0].whats is None
    assert names(album, 0) == ["layers.0.up", "layers.0.down"]
    assert names(album, 1) == ["layers.1.up", "layers.1.down"]
