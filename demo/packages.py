"""Debian's package descriptions, as the machine's own package lists have them, ready for COPY.

What enters: `apt-cache dumpavail`. What leaves: one Package per name, in an order that puts the programs that
people look for by what they do first, so that any number of rows from the top makes a sensible sample.

    python demo/packages.py 1000 > packages.csv
"""

import csv
import dataclasses
import email.utils
import hashlib
import re
import subprocess
import sys

# Sections that come first, in two ranks; every other section is of the third rank.
SECTION_RANKS = [
    {"graphics", "games", "sound", "video", "editors", "education"},
    {"text", "utils", "math", "mail", "shells", "news"},
]
# Parts of a program rather than the program itself.
PART = re.compile(r"lib.*|.*-(common|data|dbg|dbgsym|dev|docs?|i18n|l10n|locales?|themes?|plugins?(-.*)?)")


@dataclasses.dataclass(frozen=True)
class Package:
    name: str
    version: str
    section: str
    installed_size: int  # kB
    maintainer: str
    email: str
    description: str  # one line, or the whole text where the lists have it


def read_packages(count=None):
    """The first `count` packages (all of them by default) of the sampling order."""
    done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True)
    packages = {}
    for stanza in done.stdout.split("\n\n"):
        package = _parse(stanza)
        # A package that is there in several versions has the newest one first.
        if package and package.name not in packages:
            packages[package.name] = package
    if not packages:
        raise RuntimeError("the machine's package lists are empty: run `apt-get update`")
    return sorted(packages.values(), key=_sampling_order)[:count]


def _sampling_order(package):
    """By rank of section, then by a hash of the name: spread over the alphabet, the same on each machine."""
    rank = len(SECTION_RANKS)
    if not PART.fullmatch(package.name):
        rank = next((i for i, sections in enumerate(SECTION_RANKS) if package.section in sections), rank)
    return rank, hashlib.sha256(package.name.encode()).digest()


def _parse(stanza):
    """The Package of one stanza of the lists, or None where a field is missing."""
    # A line that begins with a blank continues the field above.
    fields = dict(re.findall(r"^([A-Za-z0-9-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE))
    description = fields.get("Description") or fields.get("Description-en")
    if not description or not {"Package", "Version", "Section", "Maintainer"} <= fields.keys():
        return None
    name, address = email.utils.parseaddr(fields["Maintainer"])
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        # Outside the distribution's main part, a section is `contrib/games`, `universe/games`, ...
        section=fields["Section"].rpartition("/")[2],
        installed_size=int(fields.get("Installed-Size", 0)),
        maintainer=name or address,
        email=address,
        description=_text(description),
    )


def _text(description):
    """A description as plain text: without the lists' indent, with ` .` lines as the blank lines they stand for."""
    lines = [line.strip() for line in description.splitlines()]
    return "\n".join("" if line == "." else line for line in lines)


if __name__ == "__main__":
    rows = csv.writer(sys.stdout)
    rows.writerow(field.name for field in dataclasses.fields(Package))
    rows.writerows(dataclasses.astuple(p) for p in read_packages(int(sys.argv[1]) if len(sys.argv) > 1 else None))
