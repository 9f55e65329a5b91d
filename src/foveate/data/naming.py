"""Class names and splits as people write them, made one."""

import csv
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from foveate.errors import InputError
from foveate.readers import read_text, text_lines

SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "valset", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
_BESIDE = frozenset(
    (
        *("set", "sets", "seg", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos"),
        *("split", "folder", "full"),
    )
)
"""Words that may stand beside a split's in the name of its folder: seg_train, "Test set"."""

_UNREADABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's kinds of characters that nobody sees, and no CLIP has read."""

_WNID = re.compile(r"n\d{8}")
_WORDLESS = re.compile(r"[\W\d_]*|n\d{8}|\d+\W.*|[A-Z][a-z]+(?:[A-Z][a-z]+)+")
"""Names that say little to CLIP: 0, 8.0, n01440764, 001.Albatross, AnnualCrop."""

_LONGEST = 1000  # letters; of the names that CLIP reads, 300 are the most
_SHARE = 0.25  # of such names, from which on a set's are told of


def clean_name(raw: str) -> str:
    """Make a class name readable for CLIP: underscores are spaces, one at a time, none at the ends.

    Raises:
        InputError: It is no text, too long, or has a character that nobody sees.
    """
    if not isinstance(raw, str):
        raise InputError(f"class name {raw!r} is of type {type(raw).__name__}: give text")
    if len(raw) > _LONGEST:
        raise InputError(f"class name {raw[:20]!a}… has {len(raw):,} letters: shorten it")
    name = " ".join(unicodedata.normalize("NFC", raw).replace("_", " ").split())
    joiners = "\u200c\u200d" if not name.translate({0x200C: "", 0x200D: ""}).isascii() else ""
    for letter in name:
        if unicodedata.category(letter) in _UNREADABLE and letter not in joiners:
            what = (
                "is no text in UTF-8" if unicodedata.category(letter) == "Cs" else "has an unseen character"
            )
            raise InputError(f"class name {name!a} {what} (U+{ord(letter):04X}): rename it")
    return name


def name_key(name: str) -> str:
    """Return what two ways to write one name share: "Barn_Owl" is "barn owl"."""
    return clean_name(name).casefold()


def clean_names(raw: Mapping[str, str], where: str) -> tuple[str, ...]:
    """Clean the names of all classes.

    Args:
        raw: The name of each class by what the source calls it (a folder, a label).
        where: The source, for messages.

    Raises:
        InputError: A name is empty, or two classes have the same.
    """
    seen: dict[str, str] = {}
    for origin, name in raw.items():
        try:
            cleaned = clean_name(name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if not cleaned:
            raise InputError(f"{where}: class {origin!r} has an empty name; give it one CLIP can read")
        if cleaned in seen:
            raise InputError(
                f"{where}: classes {seen[cleaned]!r} and {origin!r} are both called {cleaned!r}; "
                f"rename one, or make them one class"
            )
        seen[cleaned] = origin
    return tuple(seen)


def read_split(raw: str, where: str) -> str | None:
    """Return "train", "val", "test", or None for an empty string.

    Raises:
        InputError: It is none of the words we know.
    """
    word = raw.strip().lower()
    if word and word not in SPLITS:
        raise InputError(f"{where}: split {raw!r} is not one of {', '.join(SPLITS)}")
    return SPLITS.get(word)


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder is named after: "train", "seg_test", "Validation set"."""
    words = [word for word in re.split(r"[\W_]+", name.casefold()) if word]
    found = {SPLITS[word] for word in words if word in SPLITS}
    others = [word for word in words if word not in SPLITS and word not in _BESIDE]
    return found.pop() if len(found) == 1 and not others else None


def in_order(labels: Iterable[str]) -> list[str]:
    """Sort labels: by number where all of them are whole numbers, else by letter."""
    found = sorted(labels)
    if all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in found):
        return sorted(found, key=int)
    if all(re.fullmatch(r"[0-9]+", label) for label in found):  # more digits than Python turns into numbers
        return sorted(found, key=lambda label: (len(label.lstrip("0")), label.lstrip("0")))
    return found


def read_names(path: Path) -> list[str]:
    """Read a file with a class name a line; empty lines are left out.

    Raises:
        InputError: There is no such file, it is no text, or it has no names.
    """
    names = [line for _, line in text_lines(read_text(path))]
    if not names:
        raise InputError(f"{path}: has no names; write one a line")
    return names


def split_names(text: str | None, known: Iterable[str] = ()) -> list[str]:
    """Return the names of an option.

    Args:
        text: Names with commas between them, one with a comma of its own in quotes; or a file with a name a
            line; None for no names.
        known: Names that are not cut where they have a comma.

    Raises:
        InputError: It is a file without names.
    """
    if not text:
        return []
    if os.path.isfile(text):  # noqa: PTH113  (a name may be longer than a path)
        return read_names(Path(text))
    whole = {name_key(name) for name in known if "," in name}
    words = [word.strip() for word in next(csv.reader([text.replace("\n", " ")], skipinitialspace=True), [])]
    names: list[str] = []
    while words:
        joined = (end for end in range(len(words), 1, -1) if name_key(", ".join(words[:end])) in whole)
        end = next(joined, 1)
        names.append(", ".join(words[:end]))
        words = words[end:]
    return [name for name in names if name]


def read_class_names(file: Path, folders: Sequence[str]) -> dict[str, str]:
    """Read `classnames.txt`, the field's list for ImageNet: a folder, a space or tab, a name on each line.

    Returns:
        The name of each of these folders that the file has.

    Raises:
        InputError: It is no text in UTF-8.
    """
    known, found = set(folders), dict[str, str]()
    several = sorted((one for one in folders if re.search(r"[\s,:;]", one)), key=len, reverse=True)
    for _, line in text_lines(read_text(file)):
        own = next((one for one in several if re.match(rf"{re.escape(one)}[\s,:;]", line)), None)
        own = own or re.split(r"[\s,:;]", line, maxsplit=1)[0]
        if own in known:
            found[own] = line[len(own) + 1 :].strip()
    return {folder: name for folder, name in found.items() if name}


@cache
def imagenet_names() -> Mapping[str, str]:
    """Return CLIP's names of ImageNet's classes, by WordNet id, as its list has them."""
    file = files("foveate.datasets").joinpath("official", "imagenet_classnames.txt")
    pairs = (line.partition(" ") for _, line in text_lines(file.read_text(encoding="utf-8")))
    return {wnid: name for wnid, _, name in pairs}


def are_wordnet(folders: Iterable[str]) -> bool:
    """Return whether all folders are called by WordNet ids that CLIP has a name of its own for."""
    given = list(folders)
    names = [imagenet_names()[one] for one in given if _WNID.fullmatch(one) and one in imagenet_names()]
    return len(set(names)) == len(given) > 0


def near_names(names: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of a name and a known one that differ in spaces, signs or a plural's ending alone."""
    by_form = {form: name for name in known for form in _forms(name)}
    near = ((name, next((by_form[one] for one in _forms(name) if one in by_form), None)) for name in names)
    return [(name, other) for name, other in near if other is not None]


def _forms(name: str) -> list[str]:
    """Return a name's letters alone, and without the ending of a plural."""
    letters = re.sub(r"[\W_]+", "", name_key(name))
    return [letters, *(letters.removesuffix(end) for end in ("s", "es") if letters.endswith(end))]


def unusual(names: Sequence[str]) -> list[str]:
    """Return a note where names are in another script than CLIP has mostly read, or no words at all."""
    foreign = [name for name in names if any(c.isalpha() and not _is_latin(c) for c in name)]
    notes = [f"CLIP has mostly read English; it may not understand {_some(foreign)}"] if foreign else []
    wordless = [name for name in names if _WORDLESS.fullmatch(name)]
    if wordless and len(wordless) >= _SHARE * len(names):
        notes.append(
            f"CLIP reads names as words, and {_some(wordless)} say little to it: write classnames.txt beside"
            " the class folders, on each line a folder, a space, and its name in words"
        )
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "LATIN").startswith("LATIN")
