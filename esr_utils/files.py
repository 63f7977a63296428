"""Files that are all there or not there at all, and tables that are read back as they were written."""

import csv
import hashlib
import json
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import BinaryIO

import pandas as pd


def write_whole(path: Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that it is either all there or not there at all.

    Args:
        content: what it holds, or a function that writes that into a file open for writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def digest(value: object) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def table_text(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", quoting=csv.QUOTE_NONNUMERIC)


def as_read(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as ``Run.frame`` gives it back, to the same digits, without writing it."""
    return read_written(StringIO(table_text(frame)))


def read_written(path: Path | StringIO) -> pd.DataFrame:
    """A table as it was written: a text that says NA is a text, an empty one is empty (unless a whole column is)."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], lineterminator="\n")
    texts = frame.select_dtypes(include=["object", "str"]).columns
    return frame.fillna(dict.fromkeys(texts, ""))
