"""Every worked example of the guides that this project answers, as data and evaluated.

Documentation, not product: docs/formulas.py prints them, tests/test_worked_examples.py holds them to the code.
"""

from worked_examples import compiled_serving, compiled_weights, forum_post, kaitchup, memory_guide, parameter_guide
from worked_examples.records import Example

DOCUMENTS: dict[str, tuple[Example, ...]] = {
    forum_post.TITLE: forum_post.EXAMPLES,
    memory_guide.TITLE: memory_guide.EXAMPLES,
    "LLM memory requirements: formulas and calculations (a compiled document)": (
        *compiled_weights.EXAMPLES,
        *compiled_serving.EXAMPLES,
    ),
    parameter_guide.TITLE: parameter_guide.EXAMPLES,
    kaitchup.TITLE: kaitchup.EXAMPLES,
}
