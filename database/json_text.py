"""The text of one field of a JSON column, written in SQL so that an index on it can be used.

SQLAlchemy's own `column["field"]` passes the field as a parameter, by which no database recognizes
the expression of an index. And PostgreSQL's `->>` fails for an object with a NUL in any of its
texts, although the column may hold it: one such row would end every query that looks at it.
"""

from typing import Any

from sqlalchemy import String, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class JsonText(FunctionElement[str]):
    """The text, or NULL if there is no such field.

    Args:
        column: JSON objects, in which no nested object has such a field before it.
        field: Its name: letters and underscores. Its texts are ids, which need no escapes.
    """

    type = String()
    inherit_cache = True

    def __init__(self, column: Any, field: str) -> None:
        super().__init__(column, literal_column(field))


@compiles(JsonText, "sqlite")
def _in_sqlite(element: JsonText, compiler: Any, **options: Any) -> str:
    column, field = element.clauses
    return f"json_extract({compiler.process(column, **options)}, '$.{field}')"


@compiles(JsonText, "postgresql")
def _in_postgresql(element: JsonText, compiler: Any, **options: Any) -> str:
    column, field = element.clauses
    content = compiler.process(column, **options)
    return f"""substring(CAST({content} AS text), '"{field}": ?"([^"]*)"')"""
