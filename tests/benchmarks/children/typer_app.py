"""The smallest typer app: what `planner --help` is measured against."""

import typer

app = typer.Typer()


@app.command()
def greet(name: str, count: int = 1) -> None:
    """Greet someone."""
    typer.echo(f"Hello {name}\n" * count)


app()
