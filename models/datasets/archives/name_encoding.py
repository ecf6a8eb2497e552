"""Decodes file names that an archive stores without saying in which encoding.

A zip says so only for UTF-8. Windows stores names in the code page of its language, macOS in UTF-8
without saying so, and a tar says nothing at all. The encoding is therefore guessed from all names
of an archive together, by how plausible the text is in each. A guess is reported; the client can
name the encoding instead.
"""

import codecs
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache

from contracts.errors import InvalidArchive, ValidationFailed
from contracts.names import composed
from contracts.training.datasets import DatasetWarning, LabelSource

UTF_8 = "utf-8"
_LATIN = ("cp437", "cp850", "cp852", "cp1252", "cp1250", "cp857", "cp1254")
_WORDS = {"cp866": "CYRILLIC", "cp1251": "CYRILLIC", "koi8-r": "CYRILLIC", "cp737": "GREEK",
          "cp1253": "GREEK", "cp862": "HEBREW", "cp1255": "HEBREW", "cp1256": "ARABIC",
          "cp874": "THAI"}  # fmt: skip
_EAST_ASIAN = ("gbk", "cp932", "big5", "cp949")
_CANDIDATES = (UTF_8, *_EAST_ASIAN, *_LATIN, *_WORDS)
_OTHERS = ("gb18030", "gb2312", "shift_jis", "euc_jp", "euc_kr", "big5hkscs", "cp950", "cp936",
           "cp855", "cp865", "cp861", "cp863", "cp775", "cp1257", "cp1258", "iso8859-1",
           "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9", "iso8859-15", "ascii",
           "mac-roman", "mac-cyrillic", "koi8-u", "johab", "tis-620")  # fmt: skip
_UTF_8_BONUS = 0.35  # few other names are valid UTF-8 by chance
_SAMPLE = 2000  # names
_SAMPLE_BYTES = 20_000
_SAMPLE_NAME_BYTES = 100_000  # of all names in the sample; each takes seventeen encodings a while
_EXAMPLES = 5

# The more frequent half of the letters of each script.
_LETTERS = {
    "LATIN": "äöüßéèàçñáíóúãõâêôîûëïåæøčšžřůěýłżźśćęąńőűșțğışÄÖÜÉÅØČŠŽŁŚĐÇİñ",
    "CYRILLIC": "оеаинтсрвлкмдпуябыгзьОЕАИНТСРВЛКМДПУБГ",
    "GREEK": "αοιετσνηυρπκμλςάέήίόύωώγδΑΟΙΕΤΣΝΗΡΠΚΜΛ",
    "HEBREW": "יוהלאמרתבנשחכםע",
    "ARABIC": "اليمونترببةدسعفقكحهطج",
    "THAI": "านรอกเงมยลวดทสตะปแคั",
}
# Frequent characters of East Asia, above all of words for what is classified.
_HAN = frozenset(
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学么之都好看起发当没成只如事把还用第样道想作种开"
    "美总从无情己面最女但现前些所同日手又行意动方期它头经长儿回位分爱老因很给名法间斯知世什两次使身者被高已亲其进此话常与活正感"
    "猫狗犬鸟鱼马牛羊猪鸡鸭鹅兔鼠虎龙蛇猴象狮熊狼狐豹鹿虫蝶蜂蚁蛙龟花草树木叶果苹香蕉橙葡萄桃梨瓜菜豆米面包肉蛋奶茶水火山石土云雨雪风海河湖江"
    "红黄蓝绿黑白灰紫粉车船飞机汽自公交火摩托电脑手机表桌椅床门窗房楼桥路灯书笔纸刀杯碗瓶衣裤鞋帽包球男孩女人脸眼口鼻耳笑哭新旧左右东西南北春夏秋冬"
    "正常异合格不良缺陷裂纹划痕垃圾可回收有害厨余其他类别图片训练测试验证集数据样本标签玫瑰向日葵郁金蒲公英雏菊"
    "貓狗鳥魚馬豬雞鴨鵝龍獅蟲龜樹葉蘋車飛機電腦門書筆紙鞋黃藍綠紅國學說時對長開這個們來為後過還種發訓練測試驗證圖"
    "能表力気本日時会社東京駅犬鳥魚馬車花桜山川空海雨雪風赤青黄緑黒白男女子供食飲肉菜果物林檎蜜柑画像学習検証正常異常良品不良傷欠陥種類分類"
)
_HANGUL = frozenset(
    "가각간갈감갑강개객거건검것게겨결경계고곡공과관광교구국군권귀그극근글금기길김까꽃끼나난날남내너네노녹논농누눈뉴는늘능니다단달담당대더데도독동돼되두드들등디"
    "따때또라란람랑래량러레려력련렬령로록론료루류르른를름리린림립마막만말망매머먼메면명모목몰무문물미민바박반발방배백버번벌법변별병보복본봄부북분불비빨사산"
    "살상새색생서석선설성세소속손송수숙순술스승시식신실심싱아악안알암앞애야약양어언얼업없에여역연열염영예오온올와완왕외요용우운울원월위유육으은을음의이인일임입자작"
    "잔잠장재저적전절점정제조족존종좋주준줄중즈지직진질집차착참창책처천철청체초촌총최추축출충취치친칠카커코크키타태터토통투트특티파판팔패펴편평포표품풍프피하학한"
    "할함합해행향험현형호혼홍화확환활황회효후훈휴흑희히강아지고양이개새물소토끼말닭돼지여우늑대곰사자호랑이사과바나나"
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Names, and what was guessed about them.

    Attributes:
        names: By their bytes.
        guess: The encoding that was guessed; None if the names left no choice.
    """

    names: dict[bytes, str]
    guess: str | None


@dataclass(frozen=True, slots=True)
class Naming:
    """What a client says about the names in an upload.

    Attributes:
        encoding: Of names that do not say it, from `checked_encoding`; guessed if None.
        labels_from: Whether folders are named after classes, or files.
    """

    encoding: str | None = None
    labels_from: LabelSource = "folders"


UNNAMED = Naming()


class NameReader:
    """Decodes the names of one upload, and remembers what it had to guess.

    Args:
        encoding: What the client says; from `checked_encoding`.
    """

    def __init__(self, encoding: str | None = None) -> None:
        self._encoding = encoding
        self._known: dict[bytes, str] | None = None
        self._guess: str | None = None
        self._examples: list[str] = []

    def read(self, raw: Collection[bytes]) -> dict[bytes, str]:
        """Decode all names of an upload whose encoding it does not say, by their bytes.

        Raises:
            InvalidArchive: A name is not in the encoding that the client has named.
        """
        decoded = decode_names(raw, self._encoding)
        if decoded.guess is not None:
            self._guess = decoded.guess
            self._examples = _first_parts(decoded.names.values())
        return decoded.names

    def read_one(self, raw: bytes, everything: Callable[[], Iterable[bytes]]) -> str:
        """Decode one name, which is UTF-8 as a rule.

        Args:
            everything: Returns all names of the upload; called at most once, if this is not UTF-8.

        Raises:
            InvalidArchive: As `read`.
        """
        if self._encoding is not None:
            return _strict(raw, self._encoding)
        if raw.isascii() or _is_surely_utf_8(raw):
            return raw.decode()
        if self._known is None:
            self._known = self.read({name for name in everything() if not name.isascii()} | {raw})
        return self._known.get(raw) or raw.decode("cp437")

    def notes(self) -> list[DatasetWarning]:
        """A warning if the encoding was guessed."""
        if self._guess is None:
            return []
        shown = ", ".join(self._examples)
        detail = (
            f"the upload does not say how its names are encoded; they were read as {self._guess}: "
            f"{shown}. If they look wrong, send it again with name_encoding, for example "
            "cp932, gbk, big5, cp949, cp866, cp850 or utf-8"
        )
        return [DatasetWarning(code="guessed_names", detail=detail)]


def _first_parts(names: Iterable[str]) -> list[str]:
    """The first names of folders and files in the alphabet that are not ASCII."""
    found: set[str] = set()
    for name in names:
        found |= {part for part in name.split("/") if not part.isascii()}
        if len(found) > _EXAMPLES:  # a hundred megabytes of names may be as many parts
            found = set(sorted(found)[:_EXAMPLES])
    return sorted(found)


def _is_surely_utf_8(name: bytes) -> bool:
    """Whether a name is UTF-8 with characters of three bytes, which no other text is by chance."""
    return max(name) >= 0xE0 and _decoded(name, UTF_8) is not None


def checked_encoding(name: str) -> str:
    """The canonical name of an encoding for file names.

    Raises:
        ValidationFailed: There is no such encoding.
    """
    found = _known().get(_spelling(name.strip()))
    if found is None:
        raise ValidationFailed(
            f"'name_encoding' is not the encoding of file names. Use one of "
            f"{', '.join((UTF_8, *_EAST_ASIAN, *_LATIN, *_WORDS))}."
        )
    return found


@lru_cache(maxsize=1)
def _known() -> dict[str, str]:
    """The canonical names by every spelling that Python has; it remembers what it is asked for."""
    names = (*_CANDIDATES, *_OTHERS, "latin-1")
    found = {_spelling(name): codecs.lookup(name).name for name in names}
    found |= {_spelling(name): name for name in found.values()}
    for alias, target in aliases.items():
        if (name := found.get(_spelling(target))) is not None:
            found[_spelling(alias)] = name
    return found


def _spelling(name: str) -> str:
    return normalize_encoding(name).lower()


def decode_names(raw: Collection[bytes], encoding: str | None) -> Decoded:
    """Decode names that may be in any encoding, all in the same one.

    Args:
        encoding: The encoding, if the client has named it.

    Raises:
        InvalidArchive: A name cannot be in that encoding.
    """
    if encoding is not None:
        return Decoded({name: _strict(name, encoding) for name in raw}, None)
    known = {name for name in raw if name.isascii() or _is_surely_utf_8(name)}
    names = {name: name.decode() for name in known}
    foreign = sorted(set(raw) - known)
    if not foreign:
        return Decoded(names, None)
    best = _most_plausible(foreign)
    for name in foreign:
        text = _decoded(name, best)
        names[name] = name.decode("cp437") if text is None else text
    return Decoded(names, None if best == UTF_8 else best)


def plausible_encoding(text: bytes) -> str:
    """The encoding in which the beginning of a text is most plausible."""
    lines = text[:_SAMPLE_BYTES].split(b"\n")
    return _most_plausible([line for line in lines[: max(1, len(lines) - 1)] if line])


def _strict(name: bytes, encoding: str) -> str:
    try:
        return name.decode(encoding)
    except UnicodeDecodeError:
        shown = name.decode("ascii", "replace").replace("\ufffd", "?")[:100]
        raise InvalidArchive(
            f"The name '{shown}' is not in the encoding {encoding}. "
            "Send another name_encoding, or none."
        ) from None


def _most_plausible(names: Sequence[bytes]) -> str:
    # Spread over the archive, since a folder's files have similar names.
    sample, left = [], _SAMPLE_NAME_BYTES
    for name in names[:: max(1, len(names) // _SAMPLE)]:
        sample.append(name)
        left -= len(name)
        if left < 0:
            break
    scores = {encoding: _plausibility(sample, encoding) for encoding in _CANDIDATES}
    if any(_decoded(name, UTF_8) is None for name in names):
        del scores[UTF_8]
    return max(scores, key=scores.__getitem__)  # of equal ones the first


def _plausibility(names: Sequence[bytes], encoding: str) -> float:
    """How much the names look like text in that encoding; 1 at most."""
    # Each folder and file name counts once, however many files are in the folder.
    parts = {part for name in names for part in _parts(name, encoding)}
    total = count = 0.0
    for part in parts:
        if part is None:
            total, count = total - 1, count + 1
            continue
        for index, character in enumerate(part):
            if not character.isascii():
                total += _score(part, index, encoding)
                count += 1
    bonus = _UTF_8_BONUS if encoding == UTF_8 else 0.0
    return total / count + bonus if count else -1.0


def _parts(name: bytes, encoding: str) -> list[str | None]:
    text = _decoded(name, encoding)
    return [None] if text is None else [*composed(text).replace("\\", "/").split("/")]


def _decoded(name: bytes, encoding: str) -> str | None:
    try:
        return name.decode(encoding)
    except UnicodeDecodeError:
        return None


def _score(text: str, index: int, encoding: str) -> float:
    if encoding in _EAST_ASIAN:
        return _east_asian_score(text, index, encoding)
    character = text[index]
    script = _WORDS.get(encoding)
    if script is None and encoding == UTF_8:
        script = next((s for s in _WORDS.values() if _is_of(character, s)), "LATIN")
    return _word_score(text, index, script or "LATIN")


def _word_score(text: str, index: int, script: str) -> float:
    """The score of a letter of a script that has words and, mostly, two cases."""
    character = text[index]
    if unicodedata.combining(character):
        return 0.6 if index and text[index - 1].isalpha() else -1.0
    if not _is_of(character, script):
        return -1.0
    around = [text[at] for at in (index - 1, index + 1) if 0 <= at < len(text)]
    score = 0.95 if character in _LETTERS[script] else 0.6
    plain = any(other.isascii() and other.isalpha() for other in around)
    if script == "LATIN":
        # Accented letters stand among plain ones.
        score -= 0.0 if plain else 0.45
    elif plain:
        score -= 0.5
    elif not any(_is_of(other, script) for other in around):
        score -= 0.4
    if character.isupper() and index:
        # Few words have a capital in their middle, and few are all capitals.
        score -= 1.0 if text[index - 1].islower() else 0.05
    return score


@lru_cache(maxsize=4096)
def _is_of(character: str, script: str) -> bool:
    if not (character.isalpha() or unicodedata.category(character).startswith("M")):
        return False
    return unicodedata.name(character, "").startswith(f"{script} ")


_SIGNS = {"HIRAGANA": 0.3, "KATAKANA": 0.3, "HALFWIDTH": 0.2, "FULLWIDTH": 0.5, "IDEOGRAPHIC": 0.5}
_KANA = {"HIRAGANA": 0.95, "KATAKANA": 0.95, "KATAKANA-HIRAGANA": 0.95, "HALFWIDTH": 0.2,
         "FULLWIDTH": 0.5, "IDEOGRAPHIC": 0.5}  # fmt: skip
_LEVEL_1 = {"gbk": (0xB0, 0xD7), "cp932": (0x88, 0x97), "big5": (0xA4, 0xC6)}
_LEVEL_2 = {"gbk": (0xD8, 0xF7), "cp932": (0x98, 0xEA), "big5": (0xC9, 0xF9)}


def _east_asian_score(text: str, index: int, encoding: str) -> float:
    character = text[index]
    if character in _HAN or character in _HANGUL:
        return 1.0
    kind = unicodedata.name(character, "").partition(" ")[0]
    if kind not in {"CJK", "HANGUL"}:
        return _KANA.get(kind, -0.5) if encoding == "cp932" else _SIGNS.get(kind, -0.5)
    around = text[max(0, index - 1) : index + 2]
    beside_latin = 0.2 if any(c.isascii() and c.isalpha() for c in around) else 0.0
    lead, trail = (*character.encode(encoding, "replace"), 0)[:2]
    return _level_score(kind, lead, trail, encoding) - beside_latin


def _level_score(kind: str, lead: int, trail: int, encoding: str) -> float:
    """The score of a character by its place in the table, where the frequent ones come first."""
    if kind == "HANGUL":
        return 0.45 if 0xB0 <= lead <= 0xC8 and trail >= 0xA1 else 0.05
    if encoding == "gbk" and trail < 0xA1:
        return 0.05
    for level, score in ((_LEVEL_1, 0.65), (_LEVEL_2, 0.4)):
        first, last = level.get(encoding, (0, -1))
        if first <= lead <= last:
            return score
    return 0.1
