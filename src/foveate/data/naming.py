"""Normalises class names and split names."""

import csv
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from foveate.errors import InputError
from foveate.files import home_of, is_file
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
"""Words that a folder name may contain besides a split's name: seg_train, "Test set"."""

_UNREADABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of invisible characters, which a class name must not contain."""

_WORDLESS = re.compile(
    r"[\W\d_]*|n\d{8}|\d+\W.*|[A-Z][a-z]+(?:[A-Z][a-z]+)+|(?i:class|cls|label|category|id)\W*\d+"
)
"""Names that mean little to CLIP: 0, 8.0, n01440764, 001.Albatross, AnnualCrop, class 7."""

_LONGEST = 1000  # letters; CLIP reads at most 300 letters of a name
_SHARE = 0.25  # `unusual` gives a note if at least this share of the names is wordless


def clean_name(raw: str) -> str:
    """Make a class name readable for CLIP: single spaces instead of underscores, none at the ends.

    Raises:
        InputError: The name is not a string, is too long, or has an invisible character.
    """
    if not isinstance(raw, str):
        raise InputError(f"class name {raw!r} is of type {type(raw).__name__}: give text")
    if len(raw) > _LONGEST:
        raise InputError(f"class name {raw[:20]!a}… has {len(raw):,} letters: shorten it")
    name = " ".join(unicodedata.normalize("NFC", raw).replace("_", " ").split())
    joiners = "\u200c\u200d" if not name.translate({0x200C: "", 0x200D: ""}).isascii() else ""
    for letter in name:
        if unicodedata.category(letter) in _UNREADABLE and letter not in joiners:
            problem = (
                "is no text in UTF-8" if unicodedata.category(letter) == "Cs" else "has an unseen character"
            )
            raise InputError(f"class name {name!a} {problem} (U+{ord(letter):04X}): rename it")
    return name


def name_key(name: str) -> str:
    """Return the key that all spellings of a name share: "Barn_Owl" and "barn owl" have one key."""
    return clean_name(name).casefold()


def clean_names(raw: Mapping[str, str], where: str) -> tuple[str, ...]:
    """Clean the names of all classes.

    Args:
        raw: The class names, by the source's own name (a folder, a label).
        where: The source, for error messages.

    Raises:
        InputError: A name is empty, or two classes have the same name.
    """
    origins: dict[str, str] = {}
    for origin, name in raw.items():
        try:
            cleaned = clean_name(name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if not cleaned:
            raise InputError(f"{where}: class {origin!r} has an empty name; give it one CLIP can read")
        if cleaned in origins:
            raise InputError(
                f"{where}: classes {origins[cleaned]!r} and {origin!r} are both called {cleaned!r}; "
                f"rename one, or make them one class"
            )
        origins[cleaned] = origin
    return tuple(origins)


def read_split(raw: str, where: str) -> str | None:
    """Return "train", "val", "test", or None for an empty string.

    Raises:
        InputError: The word is unknown.
    """
    word = raw.strip().lower()
    if word and word not in SPLITS:
        raise InputError(f"{where}: split {raw!r} is not one of {', '.join(SPLITS)}")
    return SPLITS.get(word)


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder name means: "train", "seg_test", "Validation set", "val2017"."""
    words = [word for word in re.split(r"[\W_]+|(?:19|20)\d\d$", name.casefold()) if word]
    splits = {SPLITS[word] for word in words if word in SPLITS}
    unknown = [word for word in words if word not in SPLITS and word not in _BESIDE]
    return splits.pop() if len(splits) == 1 and not unknown else None


def in_order(labels: Iterable[str]) -> list[str]:
    """Sort labels: as numbers if all are whole numbers, otherwise as strings."""
    items = sorted(labels)
    if all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in items):
        return sorted(items, key=int)
    if all(re.fullmatch(r"[0-9]+", label) for label in items):  # Python refuses to convert very long numbers
        return sorted(items, key=lambda label: (len(label.lstrip("0")), label.lstrip("0")))
    return items


def read_names(path: Path) -> list[str]:
    """Read a file with one class name on each line; skip empty lines.

    Raises:
        InputError: The file does not exist, is not text, or has no names.
    """
    names = [line for _, line in text_lines(read_text(path))]
    if not names:
        raise InputError(f"{path}: has no names; write one a line")
    return names


def split_names(text: str | None, known: Iterable[str] = ()) -> list[str]:
    """Return the names in an option.

    Args:
        text: Names with commas between them, where a name with a comma is in quotes; or a file with one
            name on each line; None for no names.
        known: Names that contain a comma and are not split.

    Raises:
        InputError: The file has no names.
    """
    if not text:
        return []
    path = home_of(text)
    if is_file(path):
        return read_names(path)
    comma_keys = {name_key(name) for name in known if "," in name}
    words = [word.strip() for word in next(csv.reader([text.replace("\n", " ")], skipinitialspace=True), [])]
    names: list[str] = []
    while words:
        ends = (end for end in range(len(words), 1, -1) if name_key(", ".join(words[:end])) in comma_keys)
        end = next(ends, 1)
        names.append(", ".join(words[:end]))
        words = words[end:]
    return [name for name in names if name]


def read_class_names(file: Path, folders: Sequence[str]) -> dict[str, str]:
    """Read `classnames.txt`, the common list for ImageNet: a folder, a space or tab, and a name on each line.

    Returns:
        The name of each of these folders that is in the file.

    Raises:
        InputError: The file is not UTF-8 text.
    """
    known, names = set(folders), dict[str, str]()
    spaced = sorted((folder for folder in folders if re.search(r"[\s,:;]", folder)), key=len, reverse=True)
    for _, line in text_lines(read_text(file)):
        prefix = next((folder for folder in spaced if re.match(rf"{re.escape(folder)}[\s,:;]", line)), None)
        prefix = prefix or re.split(r"[\s,:;]", line, maxsplit=1)[0]
        if prefix in known:
            names[prefix] = line[len(prefix) + 1 :].strip()
    return {key: name for key, name in names.items() if name}


SECOND_NAMES = {
    "n03126707": "construction crane",
    "n03710721": "one-piece bathing suit",
    "n04008634": "projectile",
    "n04356056": "dark glasses",
}
"""Names of the second class of a pair that lists of ImageNet's names call the same.

With equal texts, CLIP could never predict the second class.
"""


@cache
def imagenet_names() -> Mapping[str, str]:
    """Return CLIP's names of the ImageNet classes, by WordNet id; no two are equal."""
    file = files("foveate.datasets").joinpath("official", "imagenet_classnames.txt")
    pairs = [line.split(" ", 1) for _, line in text_lines(file.read_text(encoding="utf-8"))]
    return {wnid: SECOND_NAMES.get(wnid, name) for wnid, name in pairs}


def are_wordnet(folders: Iterable[str]) -> bool:
    """Return whether all folder names are WordNet ids that have a CLIP name."""
    ids = set(folders)
    return bool(ids) and ids <= imagenet_names().keys()


def near_names(names: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of a name and a known name that differ only in spaces, signs or a plural ending."""
    by_form = {form: name for name in known for form in _forms(name)}
    matches = ((name, next((by_form[key] for key in _forms(name) if key in by_form), None)) for name in names)
    return [(name, known_name) for name, known_name in matches if known_name is not None]


def _forms(name: str) -> list[str]:
    """Return the letters of a name, with and without a plural ending."""
    letters = re.sub(r"[\W_]+", "", name_key(name))
    return [letters, *(letters.removesuffix(ending) for ending in ("s", "es") if letters.endswith(ending))]


def unusual(names: Sequence[str]) -> list[str]:
    """Return notes on names in other scripts than Latin, and on names that are not words."""
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
