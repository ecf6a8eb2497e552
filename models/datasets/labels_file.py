"""Labels from a table beside the images: CSV, TSV, JSON or JSON lines, as many datasets have them.

Which columns hold files and labels is found by their names, and by which values are files of the
upload. A table that names none of them is no table of labels, whatever it is called.

A few kilobytes of an archive can be a table of millions of rows. So rows are read one at a time,
and their number, and the images that are compared with them, are bounded.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, takewhile
from pathlib import PurePosixPath
from typing import Any

from contracts.errors import InvalidArchive
from models.datasets.archives.name_encoding import plausible_encoding
from models.datasets.dataset import Split
from models.datasets.layout import checked_label, split_of

SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"})

_SAMPLE = 1000  # rows
_SAMPLE_VALUES = 100_000  # in these
_MAX_ROWS = 1_000_000  # of all tables together; five times the files of a dataset
_MAX_JSON_VALUES = 2_000_000  # each is a Python object, all at the same time
_MAX_COMPARISONS = 3_000_000  # of a name in a table with images that are called so
_ROWS_PER_CHECK = 4096
_MAX_SPACED = 1000  # characters of a line without delimiters
_MAX_COLUMNS = 5000  # a column for each class, at the most
_MAX_COLUMN_NAME = 128  # characters, to compare it with the known ones
_MAX_NAMESAKES = 1000  # images with one name, among which a table's place may decide
_LABEL_COLUMNS = (
    *("label_name", "class_name", "classname", "category_name", "label_text", "label", "class"),
    *("category", "target", "breed", "species", "labels", "classes", "diagnosis", "dx", "tag"),
    *("type", "variety", "disease", "object", "y", "label_id", "class_id", "classid"),
    *("category_id", "predictionstring"),
)
_FILE_COLUMNS = frozenset(
    {
        *("file", "files", "filename", "file_name", "filepath", "file_path", "path", "paths"),
        *("image", "images", "image_name", "imagename", "image_id", "imageid", "image_path"),
        *("image_file", "img", "img_name", "img_path", "img_id", "id", "name", "photo", "picture"),
    }
)
_SPLIT_COLUMNS = ("split", "subset", "partition", "set", "dataset", "data_set", "usage")
# Each digit can be matched in one way only: otherwise, a hundred thousand digits and a letter would
# take minutes, in which no other thread runs.
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)

_IMAGE_END = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic|avif|p[pgbn]m)\s+", re.IGNORECASE)

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class TableLabel:
    """What a table says about one image.

    Attributes:
        fit: How many folders the row and the image share, and whether the row names its split: of
            several rows with an image's name, the one that fits best is about it.
    """

    label: str
    split: Split | None
    table: str
    fit: tuple[int, bool]


@dataclass(slots=True)
class TableLabels:
    """What the tables of an upload say about its images.

    Attributes:
        labels: By the path of the image.
        conflicts: Paths of images that have several labels.
        tables: Paths of the tables that were used.
        missing: Number of rows that name no image of the upload.
    """

    labels: dict[str, TableLabel] = field(default_factory=dict)
    conflicts: set[str] = field(default_factory=set)
    tables: list[str] = field(default_factory=list)
    missing: int = 0

    def add(self, path: str, label: TableLabel) -> None:
        """Note the label of an image, unless another row fits it better."""
        known = self.labels.get(path)
        if known is not None and label.fit < known.fit:
            return
        if known is None or label.fit > known.fit:
            self.conflicts.discard(path)
        elif label.label != known.label:
            self.conflicts.add(path)
        self.labels[path] = label


def read_tables(
    tables: Iterable[tuple[str, bytes]],
    images: Collection[str],
    encoding: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> TableLabels:
    """Find the labels of images in the tables that came with them.

    Args:
        tables: The path and the content of each file that may be one.
        images: The paths of the images.
        encoding: That of the tables, if the client has named it.
        check: Called often; may raise.

    Raises:
        InvalidArchive: They have too many rows, or name files that too many images share.
    """
    found = TableLabels()
    index = _ImageIndex(images)
    count = 0
    for path, content in tables:
        rows = _rows(path, content, encoding)
        sample = _sample(rows)
        columns = _columns(sample, index, path)
        if columns is None:
            continue
        found.tables.append(path)
        for row in chain(sample, rows):
            if count % _ROWS_PER_CHECK == 0:
                check()
            count += 1
            if count > _MAX_ROWS:
                raise InvalidArchive(
                    f"The tables of labels have more than {_MAX_ROWS:,} rows. Leave out those that "
                    "are about no image of the archive."
                )
            file = row.get(columns.file, "")
            split = _split_in(row, columns.split)
            image = index.find(file, path, split)
            label = columns.label_of(row)
            if image is None or _is_of_another_split(file, path, image):
                found.missing += bool(file)
            elif label is not None:
                found.add(image, TableLabel(label, split, path, _fit(file, path, split, image)))
    return found


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of a table mean what.

    Attributes:
        label: None if each class has a column of its own, with a 1 in one of them.
    """

    file: str
    label: str | None
    split: str | None
    one_hot: frozenset[str] = frozenset()

    def label_of(self, row: Row) -> str | None:
        if self.label is None:
            marked = [name for name in row if name in self.one_hot and _is_one(row[name])]
            return checked_label(marked[0]) if len(marked) == 1 else None
        value = row.get(self.label, "")
        if _plain(self.label) == "predictionstring":  # a class and a box, and further ones
            value = value.partition(" ")[0]
        return checked_label(value.replace("/", "-").replace("\\", "-"))


class _ImageIndex:
    """Finds images by what a table calls them: a path, a name, or a name without its suffix."""

    def __init__(self, images: Collection[str]) -> None:
        self._comparisons = 0
        self._names: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        self._pairs: dict[str, list[str]] = defaultdict(list)
        for image in images:
            name = PurePosixPath(image).name.casefold()
            self._names[name].append(image)
            self._stems[name.rpartition(".")[0] or name].append(image)
            for end in {_pair(image.casefold()), _pair(_bare(image))}:
                self._pairs[end].append(image)

    def find(self, value: str, table: str, split: Split | None) -> str | None:
        wanted = _path(value)
        if not wanted:
            return None
        name = wanted.rpartition("/")[2]
        found = self._names.get(name) or self._stems.get(name) or []
        if not found and "." in name:
            found = self._stems.get(name.rpartition(".")[0], [])
        if len(found) > 1:
            self._count(min(len(found), _MAX_NAMESAKES))
            found = _narrowed(self._ending(wanted) or found, table, split)
        return found[0] if len(found) == 1 else None

    def _count(self, comparisons: int) -> None:
        self._comparisons += comparisons
        if self._comparisons > _MAX_COMPARISONS:
            raise InvalidArchive(
                "A table names files by names that many images of the archive have. Write their "
                "whole paths into the table, or rename the images."
            )

    def _ending(self, wanted: str) -> list[str]:
        """The images whose path, with or without its suffix, ends with these folders and a name."""
        if "/" not in wanted:
            return []
        likely = self._pairs.get(_pair(wanted), [])
        if len(likely) > _MAX_NAMESAKES:
            return likely
        ends = f"/{wanted}"
        self._count(len(likely))
        return [
            path
            for path in likely
            if f"/{path.casefold()}".endswith(ends) or f"/{_bare(path)}".endswith(ends)
        ]


def _path(value: str) -> str:
    """A path in a table as those of images are compared with it."""
    return value.strip().replace("\\", "/").casefold().lstrip("./")


def _bare(path: str) -> str:
    """A path without its suffix."""
    return path.casefold().rpartition(".")[0]


def _pair(path: str) -> str:
    """The name of a file and of its folder."""
    return "/".join(path.split("/")[-2:])


def _narrowed(paths: list[str], table: str, split: Split | None) -> list[str]:
    """Those of several images of one name, or end of the path, that the table means."""
    if len(paths) == 1 or len(paths) > _MAX_NAMESAKES:
        return paths
    folder = table.rpartition("/")[0]
    beside = [path for path in paths if not folder or path.startswith(f"{folder}/")]
    if len(beside) == 1:
        return beside
    split = split or _split_of_table(table)
    return [path for path in beside or paths if split in _splits(path)]


def _is_of_another_split(value: str, table: str, image: str) -> bool:
    """Whether a row's folders, or else its table's, name another split than the image's do."""
    named = _splits(_path(value)) or _splits(table)
    return bool(named and (splits := _splits(image)) and named.isdisjoint(splits))


def _fit(value: str, table: str, split: Split | None, image: str) -> tuple[int, bool]:
    """See `TableLabel`; the folders of a row are those of its table, then its own."""
    row = f"{table.casefold().rpartition('/')[0]}/{_path(value)}".split("/")[-2::-1]
    folders = image.casefold().split("/")[-2::-1]
    pairs = zip(row, folders, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return shared, (split or _split_of_table(table)) in _splits(image)


def _splits(path: str) -> set[Split]:
    """The splits that the folders of a path name."""
    named = map(_split_of, path.split("/")[:-1])
    return {split for split in named if split is not None}


@lru_cache(maxsize=4096)
def _split_of(folder: str) -> Split | None:
    return split_of(folder)


@lru_cache(maxsize=64)
def _split_of_table(path: str) -> Split | None:
    """That of the images that a table is about: of `train.csv` those in `train`."""
    return split_of(re.sub(r"labels?|annotations?", "", PurePosixPath(path).stem.lower()))


def _split_in(row: Row, column: str | None) -> Split | None:
    return None if column is None else split_of(row.get(column, ""))


def _sample(rows: Iterator[Row]) -> list[Row]:
    """The first rows, by which a table is recognized."""
    sample: list[Row] = []
    values = 0
    for row in rows:
        sample.append(row)
        values += len(row)
        if len(sample) == _SAMPLE or values >= _SAMPLE_VALUES:
            break
    return sample


def _columns(sample: Sequence[Row], index: _ImageIndex, path: str) -> _Columns | None:
    names = list(sample[0]) if sample else []
    if not 0 < len(names) <= _MAX_COLUMNS:
        return None
    split = next((n for w in _SPLIT_COLUMNS for n in names if _plain(n) == w), None)
    splits = [_split_in(row, split) for row in sample]
    hits = {
        name: sum(
            index.find(row.get(name, ""), path, named) is not None
            for row, named in zip(sample, splits, strict=True)
        )
        for name in names
    }
    file = max(names, key=lambda name: (hits[name], _plain(name) in _FILE_COLUMNS))
    # A table of something else may name an image or two by chance.
    if not hits[file] or (hits[file] < len(sample) / 2 and _plain(file) not in _FILE_COLUMNS):
        return None
    split = None if split == file else split
    others = [n for n in names if n not in {file, split} and _plain(n) not in _FILE_COLUMNS]
    for wanted in _LABEL_COLUMNS:
        for name in others:
            if _plain(name) == wanted:
                return _Columns(file, name, split)
    if len(others) > 1 and all(_is_one_hot(row, others) for row in sample):
        return _Columns(file, None, split, frozenset(others))
    words = [n for n in others if not all(_NUMBER.fullmatch(row.get(n, "")) for row in sample)]
    chosen = others if len(others) == 1 else words
    return _Columns(file, chosen[0], split) if len(chosen) == 1 else None


def _plain(name: str) -> str:
    """A column's name as the known ones are written; of a very long one, the beginning."""
    return re.sub(r"[^a-z0-9]+", "_", name[:_MAX_COLUMN_NAME].lower()).strip("_")


def _is_one(value: str) -> bool:
    return value.strip() in {"1", "1.0", "true", "True"}


def _is_one_hot(row: Row, names: Sequence[str]) -> bool:
    values = [row.get(name, "").strip() for name in names]
    return all(v in {"0", "1", "0.0", "1.0", "true", "false", "True", "False"} for v in values)


def _rows(path: str, content: bytes, encoding: str | None) -> Iterator[Row]:
    text = _text(content, encoding)
    stripped = text.lstrip()
    if stripped.startswith(("{", "[")):
        return _json_rows(stripped)
    if PurePosixPath(path).suffix.lower() in {".json", ".jsonl", ".ndjson"}:
        return iter(())
    return _named_rows(_csv_lines(text))


def _named_rows(lines: Iterator[list[str]]) -> Iterator[Row]:
    """Rows by the names in the first one or, without a header, by the numbers of their columns."""
    first = next(lines, None)
    if first is None:
        return
    if len(set(first)) == len(first) and _is_header([_plain(value) for value in first]):
        for line in lines:
            yield dict(zip(first, line, strict=False))
        return
    for line in chain([first], lines):
        yield {str(place): value for place, value in enumerate(line)}


def _is_header(names: Sequence[str]) -> bool:
    known = {*_FILE_COLUMNS, *_LABEL_COLUMNS}
    return any(name in known for name in names)


def _text(content: bytes, encoding: str | None) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode(encoding or plausible_encoding(content), "replace")


def _csv_lines(text: str) -> Iterator[list[str]]:
    text = _without_remarks(text.removeprefix("sep=,\n").removeprefix("sep=;\n"))
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    lines = io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline="")
    if not first.count(delimiter):
        yield from filter(None, map(_spaced_values, lines))
        return
    try:
        for values in csv.reader(lines, delimiter=delimiter, skipinitialspace=True):
            if len(values) > _MAX_COLUMNS:
                return
            if any(values):
                yield [value.strip() for value in values]
    except csv.Error:
        return


def _without_remarks(text: str) -> str:
    """The text without the lines before its header that begin with #."""
    start = 0
    while text.startswith("#", start):
        start = text.find("\n", start) + 1
        if not start:
            return ""
    return text[start:]


def _spaced_values(line: str) -> list[str]:
    """The values of a line such as `n01440764/1.JPEG 0` or `my dog.jpg great dane 1`."""
    end = _IMAGE_END.search(line) if len(line) <= _MAX_SPACED else None
    if end is None:
        pair = line.rsplit(None, 1)
        return pair if len(pair) == 2 else []
    words, numbers = line[end.end() :].split(), []
    while len(words) > 1 and _NUMBER.fullmatch(words[-1]):
        numbers.append(words.pop())
    return [line[: end.end()].strip(), " ".join(words), *reversed(numbers)] if words else []


def _json_rows(text: str) -> Iterator[Row]:
    whole = _parsed(text)
    if isinstance(whole, dict):
        if any(isinstance(files, list) and len(files) > 1 for files in whole.values()):
            return _rows_by_class(whole)
        pairs = ((name, _value(label)) for name, label in whole.items())
        return ({"file": name, "label": label} for name, label in pairs if label is not None)
    rows = whole if isinstance(whole, list) else []
    return (
        {str(name): _value(value) or "" for name, value in row.items()}
        for row in rows
        if isinstance(row, dict) and row
    )


def _rows_by_class(whole: dict[str, Any]) -> Iterator[Row]:
    """Rows of an object with a list of files for each class."""
    for name, files in whole.items():
        for file in files if isinstance(files, list) else ():
            yield {"file": _value(file) or "", "label": name}


def _parsed(text: str) -> Any:
    """The value of a JSON text, or a list of those of JSON lines; None if it is neither."""
    if sum(text.count(mark) for mark in ",[{") > _MAX_JSON_VALUES:
        return None
    try:
        return json.loads(text)
    except RecursionError:
        return None
    except ValueError:
        return _json_lines(text)


def _json_lines(text: str) -> list[Any]:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return []


def _value(value: Any) -> str | None:
    """A value as text; None if it is not one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and set(value) & {"label", "class", "class_name"}:
        value = value.get("label") or value.get("class_name") or value.get("class")
    return str(value) if isinstance(value, str | int | float) else None
