"""Text that a machine with Python has, with its domain and its licence; whole files are held out.

Python's own library is on every machine. Where the system knows which package a file belongs to (Debian and
its kin), C headers, manuals, documentation, Perl's library, licences and message catalogues of other
languages come in too, if the package's copyright file names a free licence. Files that belong to no package
are left alone: nobody says under what terms they may be used.
"""

import gettext
import gzip
import hashlib
import re
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DOMAINS = ("python", "c", "man", "docs", "perl", "licences", "intl")
HELD_OUT_ONE_IN = 32
"""Share of files that are held out: one in this many."""
LANGUAGES = (
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "pl",
    "ru",
    "uk",
    "cs",
    "sv",
    "nl",
    "tr",
    "vi",
    "zh_CN",
    "ja",
    "ko",
)
PACKAGE_SHARE = 0.25
"""Most of a domain that may come from one package."""
FREE = {
    "Apache-2.0": r"Apache License|\bAPACHE-2",
    "BSD": r"\bBSD-\d-clause|Redistribution and use in source and binary forms",
    "MIT": r"\bExpat\b|\bMIT\b|Permission is hereby granted, free of charge",
    "GPL": r"\bL?GPL-\d|GNU (Lesser |Library )?General Public License",
    "MPL": r"\bMPL-\d|Mozilla Public License",
    "Artistic": r"Artistic",
    "PSF": r"\bPSF\b|Python Software Foundation License",
    "PostgreSQL": r"PostgreSQL Licen[cs]e|^License: PostgreSQL",
    "ISC": r"\bISC\b",
    "zlib": r"^License: Zlib|zlib/libpng license",
    "Unicode": r"Unicode, Inc\. License|UNICODE LICENSE|Unicode-DFS",
    "CC": r"\bCC0-|\bCC-BY-(SA-)?\d",
    "public domain": r"public[- ]domain",
}
"""Free licences and how a copyright file shows them."""
_CHUNK_LINES = 8
_LONGEST, _SHORTEST = 200_000, 200


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `source` names the file, `package` who distributes it, `licence` under what terms."""

    domain: str
    source: str
    package: str
    licence: str
    text: str

    @property
    def held_out(self) -> bool:
        """True for files that are never trained on; decided by the name alone."""
        return hashlib.sha256(self.source.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


class Packages:
    """Which package a file belongs to, and the package's free licences, from dpkg's lists."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._owner: dict[str, str] = {}
        for listing in sorted((root / "var/lib/dpkg/info").glob("*.list")):
            package = listing.stem.split(":")[0]
            for line in listing.read_text(errors="replace").splitlines():
                self._owner[line] = package
        self._licences: dict[str, str] = {}

    def owner(self, path: Path) -> str | None:
        """The package of a file; None when it belongs to none."""
        name = "/" + str(path.relative_to(self._root))
        # merged /usr: lists may name files without it
        return self._owner.get(name) or self._owner.get(name.removeprefix("/usr"))

    def licence(self, package: str) -> str:
        """The free licences that the package's copyright file names; empty when it names none."""
        if package not in self._licences:
            path = self._root / f"usr/share/doc/{package}/copyright"
            text = path.read_text(errors="replace") if path.is_file() else ""
            found = [name for name, sign in FREE.items() if re.search(sign, text, re.MULTILINE)]
            self._licences[package] = ", ".join(found)
        return self._licences[package]


def _read(path: Path) -> str | None:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8")
    except (OSError, UnicodeDecodeError, EOFError, gzip.BadGzipFile):
        return None


def _catalogue(path: Path) -> str | None:
    """The translations of a message catalogue, one message after the other."""
    try:
        with path.open("rb") as file:
            # there is no public way to list a catalogue's messages
            messages = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, IndexError):
        return None
    texts = [text for key, text in sorted(messages.items(), key=str) if key and isinstance(text, str)]
    return "\n".join(texts)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files of a domain lie, as patterns below the root."""

    domain: str
    patterns: tuple[str, ...]
    read: Callable[[Path], str | None] = _read


_PROSE = ("README*", "NEWS*", "*.txt", "*.md", "*.rst", "*.txt.gz")
SOURCES = (
    Source("c", ("usr/include/**/*.h",)),
    Source("man", tuple(f"usr/share/man/man{n}/*.gz" for n in range(1, 9))),
    Source("docs", tuple(f"usr/share/doc/**/{name}" for name in _PROSE)),
    Source("perl", ("usr/share/perl/**/*.p[lmo]*",)),
    Source("licences", ("usr/share/common-licenses/*", "usr/share/doc/*/copyright")),
    Source("intl", tuple(f"usr/share/locale/{name}/LC_MESSAGES/*.mo" for name in LANGUAGES), _catalogue),
)  # fmt: skip


def documents(root: Path = Path("/"), library: Path | None = None) -> Iterator[Document]:
    """Every document this machine has, each line of text once: chunks of lines seen before are left out."""
    seen: set[bytes] = set()
    for document in _found(root, library or Path(sysconfig.get_paths()["stdlib"])):
        text = _unseen(document.text, seen)
        if len(text) >= _SHORTEST:
            yield Document(document.domain, document.source, document.package, document.licence, text)


def _found(root: Path, library: Path) -> Iterator[Document]:
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if relative.parts[0] not in ("site-packages", "dist-packages", "lib2to3") and (text := _read(path)):
            yield Document("python", str(relative), "python", "PSF-2.0", text[:_LONGEST])
    packages = Packages(root)
    for source in SOURCES:
        paths = {path for pattern in source.patterns for path in root.glob(pattern) if path.is_file()}
        for path in sorted(path for path in paths if not path.is_symlink()):
            package = packages.owner(path)
            licence = packages.licence(package) if package is not None else ""
            if package is not None and licence and (text := source.read(path)):
                name = str(path.relative_to(root))
                yield Document(source.domain, name, package, licence, text[:_LONGEST])


def _unseen(text: str, seen: set[bytes]) -> str:
    lines = text.splitlines(keepends=True)
    kept = []
    for begin in range(0, len(lines), _CHUNK_LINES):
        chunk = "".join(lines[begin : begin + _CHUNK_LINES])
        digest = hashlib.blake2b(chunk.encode(), digest_size=8).digest()
        if digest not in seen:
            seen.add(digest)
            kept.append(chunk)
    return "".join(kept)


def by_domain(found: Iterator[Document], most: int) -> dict[str, list[Document]]:
    """Documents per domain, up to `most` characters each, chosen by the hash of their names.

    No package gives more than its share, but for Python's and Perl's own libraries, which are the domain.
    """
    grouped: dict[str, list[Document]] = defaultdict(list)
    for document in found:
        grouped[document.domain].append(document)
    for domain, members in grouped.items():
        members.sort(key=lambda d: hashlib.sha256(b"order" + d.source.encode()).digest())
        total, kept, given = 0, list[Document](), defaultdict[str, int](int)
        for document in members:
            own = domain in {"python", "perl"} or given[document.package] < PACKAGE_SHARE * most
            if own and total < most:
                total += len(document.text)
                given[document.package] += len(document.text)
                kept.append(document)
        grouped[domain] = kept
    return dict(grouped)
