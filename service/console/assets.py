"""The files of the console: scripts, styles and texts, under a path that changes with them.

All of them are our own, so nothing has to be fetched or built. They are read and compressed once.
The digest in their path lets browsers keep them for a year.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from service.http.assets import Asset

_FOLDER = Path(__file__).with_name("static")
_TEXTS = Path(__file__).with_name("texts.json")
LANGUAGES = ("en", "zh")
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Assets:
    """All files by their path below the digest."""

    digest: str
    files: dict[str, Asset]


@lru_cache(maxsize=1)
def load_assets() -> Assets:
    """The files of this release."""
    contents = {
        path.relative_to(_FOLDER).as_posix(): path.read_bytes()
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }
    for language in LANGUAGES:
        text = json.dumps(texts(language), ensure_ascii=False, separators=(",", ":"))
        contents[f"texts.{language}.js"] = f"export default {text};\n".encode()
    whole = hashlib.sha256()
    for name, data in sorted(contents.items()):
        whole.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    files = {
        name: Asset.of(data, _MEDIA_TYPES[Path(name).suffix]) for name, data in contents.items()
    }
    return Assets(whole.hexdigest()[:16], files)


@lru_cache(maxsize=len(LANGUAGES))
def texts(language: str) -> dict[str, str]:
    """The catalog in one language, by key, and the digest of the consent that the page asks for.

    Browsers compute digests only over HTTPS.
    """
    catalog: dict[str, dict[str, str]] = json.loads(_TEXTS.read_text("utf-8"))
    all_texts = {key: entry[language] for key, entry in catalog.items()}
    digest = hashlib.sha256(all_texts["faces.consent"].encode()).hexdigest()
    return all_texts | {"faces.consent.digest": f"sha256:{digest}"}
