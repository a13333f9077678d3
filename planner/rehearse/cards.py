"""Which of the rehearsed process's cards a report's GPU figures are of, and what the others took."""

from planner.notes import Note
from planner.rehearse.events import Told
from planner.units import human_bytes


def reported_card(told: Told, own: int, ran_out: int | None) -> int:
    """Number of the card that decides: the one that ran out of memory last, if that ended the job (`ran_out`; None
    where PyTorch's allocator did not say so); else the process's own, or the one that took most where that was not
    used at all."""
    peaks = card_peaks(told)
    if told.end.get("how") == "out of memory" and ran_out is not None:
        return ran_out
    if own in peaks or not peaks:
        return own
    return max(peaks, key=lambda card: (peaks[card], -card))


def card_peaks(told: Told) -> dict[int, int]:
    """Bytes allocated at most on each card that was used."""
    peaks: dict[int, int] = {}
    for event in told.steps:
        for card, figures in enumerate(event["gpus"]):
            peaks[card] = max(peaks.get(card, 0), figures["allocated"])
    return {card: peak for card, peak in peaks.items() if peak}


def notes_on_cards(told: Told, reported: int, own: int) -> tuple[Note, ...]:
    """What each card took, where the process's own is not the only one that was used."""
    peaks = card_peaks(told)
    if reported == own and not peaks.keys() - {own}:
        return ()
    listed = ", ".join(f"card {card} {human_bytes(peak)}" for card, peak in peaks.items()) or "nothing on any card"
    text = f"The GPU figures are those of card {reported} alone. Allocated at most: {listed}."
    return (Note(kind="rehearsal", text=text),)
