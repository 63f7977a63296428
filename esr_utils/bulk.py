"""Journals read into Arrow tables, many lines at once; whatever is not plainly sound is left to ``journal.Journal``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

BLOCK_BYTES = 32 * 2**20  # of a journal, held at once
LINES = {"unexpected_field_behavior": "ignore", "newlines_in_values": False}


def read_sound(paths: Sequence[Path], schema: pa.Schema, key: Sequence[str]) -> pa.Table | None:
    """The records of journals, file after file, if a reading line by line must give the same; else None.

    It must if every whole line is one object in ASCII with the fields of ``schema``, of their types and, save where
    the schema allows it, not null, and if no two lines have the same ``key``. A half-written last line is left out.
    """
    tables = []
    for path in paths:
        for block in _blocks(path):
            table = _sound_table(block, schema)
            if table is None:
                return None
            tables.append(table)
    whole = pa.concat_tables([schema.empty_table(), *tables], promote_options="default")
    is_distinct = whole.group_by(list(key)).aggregate([]).num_rows == whole.num_rows
    return whole if is_distinct else None


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in blocks of whole lines."""
    rest = b""
    with path.open("rb") as file:
        while part := file.read(BLOCK_BYTES):
            end = part.rfind(b"\n") + 1
            if end:
                yield rest + part[:end]
            rest = part[end:] if end else rest + part


def _sound_table(block: bytes, schema: pa.Schema) -> pa.Table | None:
    n = block.count(b"\n")
    has_a_line_each = block.startswith(b"{") and block.endswith(b"}\n") and block.count(b"}\n{") == n - 1
    if not has_a_line_each or not block.isascii():
        return None
    try:
        table = pj.read_json(pa.BufferReader(block), parse_options=pj.ParseOptions(explicit_schema=schema, **LINES))
    except pa.ArrowInvalid:
        return None
    has_every_value = all(is_filled(table[field.name], field) for field in schema)
    return table.select(schema.names) if table.num_rows == n and has_every_value else None


def is_filled(values: pa.ChunkedArray, field: pa.Field) -> bool:
    """Whether no value is null, within lists neither, where the field does not allow it."""
    if values.null_count and not field.nullable:
        return False
    if pa.types.is_list(field.type):
        return is_filled(pc.list_flatten(values), field.type.value_field)
    if pa.types.is_struct(field.type):
        return all(is_filled(pc.struct_field(values, [part.name]), part) for part in field.type)
    return True
