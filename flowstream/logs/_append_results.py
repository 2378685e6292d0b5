"""What appends returned, as logs store it with their tokens: neighbours as one run.

``epoch:number:duplicate:count``, with blanks between: an append of 1,000 events takes one run.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowstream.abc import Appended


def results_to_text(results: Sequence[Appended]) -> str:
    """Return the results as they are stored with a token."""
    runs: list[tuple[Appended, int]] = []
    for one in results:
        if runs:
            first, count = runs[-1]
            if one == (first.epoch, first.number + count, first.duplicate):
                runs[-1] = first, count + 1
                continue
        runs.append((one, 1))
    return " ".join(
        f"{first.epoch}:{first.number}:{first.duplicate:d}:{count}" for first, count in runs
    )


def results_from_text(text: str) -> list[Appended]:
    """Return what `results_to_text` was given."""
    found: list[Appended] = []
    for run in text.split():
        epoch, number, duplicate, count = run.split(":")
        first, known = int(number), duplicate == "1"
        if count == "1":
            found.append(Appended(epoch, first, known))
        else:
            found += [Appended(epoch, first + place, known) for place in range(int(count))]
    return found
