"""planner recipes: the recipes that are shipped."""

from planner.commands.common import rendered
from planner.commands.options import FormatOption, OutputOption
from planner.commands.output import check_output, write_result


def recipes(format: FormatOption = "table", output: OutputOption = None) -> None:
    """List the shipped recipes; LLM Compressor itself runs each of them."""
    check_output(output)
    from planner.recipe.files import list_recipes
    from planner.reports.listing import RECIPES

    write_result(rendered(RECIPES, list_recipes(), format, output), output)
