"""Letters that only look Latin, and characters that cannot be seen: the table, and when it applies.

Rules kept here:
1. What the tokenizer would not see alike is made alike: compatibility forms (full-width, mathematical, circled
   letters), small capitals, turned letters, look-alikes of other scripts, stacked marks, invisible characters.
2. Words of other scripts stay what they are: a word is made Latin only where it mixes scripts, or where all its letters
   have look-alikes, the result is an English word, and the other words of that kind are English, too. Greek letters
   alone or beside a single Latin one stay: they are mathematics and units.
Look-alikes follow Unicode's confusables (UTS 39), with those of informal use added.
"""

import re
import unicodedata

from detector.fold_words import is_word

# Latin-script oddities: nobody writes English words with these but to disguise them. Applied everywhere.
_STYLED_BY_LETTER = {
    "a": "ᴀɑɐꬰ", "b": "ʙɓƀƅ", "c": "ᴄɔƈȼ", "d": "ᴅɗđɖ", "e": "ᴇǝəɛꬲ", "f": "ꜰƒɟꬵ", "g": "ɢɡɠƃᶃɕ", "h": "ʜɥɦħ",
    "i": "ɪıɩᴉɨ", "j": "ᴊɾʝȷ", "k": "ᴋʞƙ", "l": "ʟɭƚɫ", "m": "ᴍɯɱ", "n": "ɴɲƞŋ", "o": "ᴏᴑꬽøɵ", "p": "ᴘƥ", "q": "ꞯʠ",
    "r": "ʀɹɽꭇ", "s": "ꜱʂƽ", "t": "ᴛʇƭŧ", "u": "ᴜʊꞟꭎ", "v": "ᴠʌʋ", "w": "ᴡʍ", "x": "ꭓ", "y": "ʏʎɣỿ", "z": "ᴢƶʐ",
    "B": "Ɓ", "D": "ĐƊ", "H": "Ħ", "I": "Ɨ", "L": "Ɫ", "O": "Ø", "R": "Ʀ", "S": "Ƨ", "T": "Ŧ", "Z": "Ƶ",
}  # fmt: skip
# Other scripts: Cyrillic, Greek, Armenian, Cherokee, Coptic, Lisu, Tifinagh, Canadian syllabics.
_FOREIGN_BY_LETTER = {
    "a": "аα", "b": "ьҍβᏏᑲ", "c": "сϲςⲥꮯ", "d": "ԁժᏧᑯ", "e": "еҽєε", "f": "ғք", "g": "ց", "h": "һհнᏂ",
    "i": "іιꭵ", "j": "јϳյ", "k": "кκ", "l": "ӏⵏ", "m": "мʍ", "n": "пոηռи", "o": "оοσօⲟ", "p": "рρϱⲣ", "q": "ԛգզ",
    "r": "гᴦяꮁⲅ", "s": "ѕꮪ", "t": "тτ", "u": "υսцμ", "v": "ѵνꮩ", "w": "ԝѡաωшщ", "x": "хχ᙮", "y": "уүγч", "z": "ꮓʐ",
    "A": "АΑᎪᗅꓮ", "B": "ВΒᏴᗷꓐ", "C": "СϹᏟⲤꓚ", "D": "ᎠᗞᗪꓓĐ", "E": "ЕΕᎬⴹꓰ", "F": "ϜᖴꓝҒ", "G": "ԌᏀᏳꓖ", "H": "НΗᎻⲎᕼꓧ",
    "I": "ІΙӀⲒꓲ", "J": "ЈͿᎫᒍꓙ", "K": "КΚᏦⲔꓗ", "L": "ᏞᒪꓡԼ", "M": "МΜϺᎷⲘᗰꓟ", "N": "ΝⲚꓠИ", "O": "ОΟՕⲞꓳⴔ", "P": "РΡᏢⲢᑭꓑ",
    "Q": "ⵕԚ", "R": "ᎡᏒᖇꓣЯ", "S": "ЅՏᏕᏚꓢ", "T": "ТΤᎢⲦꓔ", "U": "Սᑌꓴ", "V": "ѴᏙᐯⴸꓦ", "W": "ԜᎳᏔꓪШ", "X": "ХΧⲬ᙭ꓫ",
    "Y": "УΥҮᎩᎽⲨꓬ", "Z": "ΖᏃꓜ",
}  # fmt: skip
# Letters in boxes and discs that have no compatibility form, and the parenthesised ones, whose form has brackets.
_BOXED = {start + offset: chr(ord("A") + offset) for start in (0x1F150, 0x1F170, 0x1F1E6) for offset in range(26)} | {
    0x249C + offset: chr(ord("a") + offset) for offset in range(26)
}

_STYLED = str.maketrans({char: to for to, chars in _STYLED_BY_LETTER.items() for char in chars} | {
    chr(code): to for code, to in _BOXED.items()
})  # fmt: skip
_FOREIGN = {char: to for to, chars in _FOREIGN_BY_LETTER.items() for char in chars}
_FOREIGN_TABLE = str.maketrans(_FOREIGN)

_WORD = re.compile(r"[^\W\d_]+")
_SHORTEST_MIXED = 3
# Marks for Latin letters, variation selectors, and what is invisible without being a format character.
_INVISIBLE = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef"
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0]"
)
# Tag characters spell ASCII that only a model reads. A few are the end of a flag; more are a message.
_TAGS = re.compile("[\U000e0020-\U000e007e]{12,}")
_FLAG = "\U0001f3f4"


def plain_letters(text: str) -> str:
    """`text` with look-alike letters made Latin and without what cannot be seen. See the rules above."""
    text = _TAGS.sub(_spelt, text)
    text = unicodedata.normalize("NFKD", text.translate(_STYLED))
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    if text.isascii():
        return text
    text = "".join(char for char in text if char.isascii() or unicodedata.category(char) != "Cf")
    text = text.translate(_STYLED)
    foreign = {word for word in _WORD.findall(text) if not word.isascii()}
    mixed = {word for word in foreign if _is_mixed(word)}
    alone = foreign - mixed
    english = {word for word in alone if is_word(word.translate(_FOREIGN_TABLE).lower())}
    if len(mixed) > 1 and all(word.translate(_FOREIGN_TABLE).isascii() for word in alone):
        english = alone  # what is left of words that are mixed with digits and signs as well
    elif 2 * len(english) < len(alone):
        english = set()  # another language, some words of which happen to look English
    return _WORD.sub(lambda match: _latin(match[0], mixed | english), text)


def _spelt(match: re.Match[str]) -> str:
    if match.string[match.start() - 1 : match.start()] == _FLAG:
        return ""
    return "".join(chr(ord(char) - 0xE0000) for char in match[0])


def _latin(word: str, disguised: set[str]) -> str:
    return word.translate(_FOREIGN_TABLE) if word in disguised else word


def _is_mixed(word: str) -> bool:
    """Whether `word` is of several scripts, with a look-alike among its letters."""
    scripts = {_script(char) for char in word}
    if len(scripts) == 1 or (len(word) < _SHORTEST_MIXED and "GREEK" in scripts):
        return False
    return any(char in _FOREIGN for char in word)


def _script(char: str) -> str:
    """The script of a letter, by its Unicode name; Latin with and without marks is one."""
    return "LATIN" if char.isascii() else unicodedata.name(char, "?").split(" ", 1)[0]
