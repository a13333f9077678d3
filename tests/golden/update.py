"""python -m tests.golden.update: rewrite the kept plans; read the diff before committing it."""

from tests.golden.cases import HERE, as_text, compact, goldens


def main() -> None:
    """Write every golden plan and drop files that nothing asks for any more."""
    kept = set()
    for golden in goldens():
        text = as_text(compact(golden.plan))
        changed = not golden.path.exists() or golden.path.read_text(encoding="utf-8") != text
        golden.path.write_text(text, encoding="utf-8")
        kept.add(golden.path)
        print(f"{golden.path.name}: {'written' if changed else 'as it was'}")
    for path in set(HERE.glob("*.json")) - kept:
        path.unlink()
        print(f"{path.name}: removed")


if __name__ == "__main__":
    main()
