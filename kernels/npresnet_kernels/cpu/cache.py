def announce() -> None:
    """Placeholder."""
