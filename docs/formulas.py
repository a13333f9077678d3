"""Write docs/formulas.md: every formula with units and source, and the guides' worked examples beside the code.

    python docs/formulas.py            write the page if it has changed
    python docs/formulas.py --check    write nothing; exit 1 where the page is out of date

Every number on the page is computed here, from the product's own code.
"""

import sys
from pathlib import Path
from textwrap import TextWrapper

from formula_sections import SECTIONS

PAGE = Path(__file__).with_suffix(".md")
COMMAND = "python docs/formulas.py"
WIDTH = 110

_HEAD = f"""# Formulas

Written by `{COMMAND}`; do not edit. Every number below is computed by the code that `planner` runs.

- [Weights](#weights): bytes of a checkpoint in every family of formats
- [Memory while serving](#memory-while-serving): cache, activations, overhead, totals
- [Several devices, speed, budgets](#several-devices-speed-budgets)
- [Training](#training)
- [Compression jobs](#compression-jobs)
- [The guides' rules and worked examples](#the-guides-rules-and-worked-examples)

**Units.** Bytes are whole numbers. GB is 10^9 bytes, GiB is 2^30 bytes: 1 GiB is 1.0737 GB, and nothing here is called
GB that is meant as GiB. `params` counts every weight of the model once, tied ones once. *bits per weight* is an
average over all weights of a model; *bits* of a type is that of one weight in a block, scales included.
GPU and CPU memory are never added up. `ceil` rounds up to a whole number.
"""


def page() -> str:
    """The text of docs/formulas.md."""
    text = "\n".join([_HEAD, *(section().rstrip() + "\n" for section in SECTIONS)])
    return "\n\n".join(_folded(block) for block in text.strip().split("\n\n")) + "\n"


def _folded(block: str) -> str:
    """A paragraph or list with lines of one width; tables and headings as they are."""
    if block.startswith(("|", "#")):
        return block
    items = block.split("\n- ") if block.startswith("- ") else [block]
    mark = "- " if block.startswith("- ") else ""
    fill = TextWrapper(width=WIDTH, subsequent_indent=" " * len(mark), break_long_words=False, break_on_hyphens=False)
    return "\n".join(fill.fill(mark + " ".join(item.removeprefix("- ").split())) for item in items)


def main(arguments: list[str]) -> int:
    text, check = page(), "--check" in arguments
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    print(f"docs/{PAGE.name} {f'is out of date; run `{COMMAND}`' if check else 'written'}")
    return int(check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
