"""locum-tiny, the trained model that ships with locum: where nothing else is named, this one runs."""

from pathlib import Path

NAME = "locum-tiny"


def shipped_model() -> Path:
    """Its folder in Hugging Face format; `README.md` there says what it was trained on and what it can do."""
    return Path(__file__).parents[1] / "assets" / NAME
