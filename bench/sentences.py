"""Sentences of Debian's package descriptions: real texts, hundreds of thousands of them.

What enters: the lists `Translation-en`, which have the long descriptions. Many machines don't keep them, so apt-get
fetches them from the machine's own sources into target/bench-cache, once, and leaves the machine's lists alone.
What leaves: texts without repetitions, in an order that depends on nothing but the lists.
"""

import pathlib
import random
import re
import shutil
import subprocess

CACHE = pathlib.Path(__file__).resolve().parent.parent / "target/bench-cache"
SHORTEST = 20
APT_OPTIONS = ["Acquire::Languages=en", "Acquire::IndexTargets::deb::Packages::DefaultEnabled=false",
               "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "APT::Sandbox::User=root",
               "Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="]
BULLET = re.compile(r"\s*(?:[-*+o•]|\d+[.)])\s+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z])")


def sentence_texts():
    """Every sentence; then, for those who need more texts, the paragraphs and the whole descriptions.

    The shuffled sentences come first, so that a sample from the top has whole texts of the other kinds only when it
    is larger than the number of sentences.
    """
    sentences, paragraphs, descriptions = {}, {}, {}
    for description in _descriptions():
        parts = _paragraphs(description)
        for part in parts:
            split = SENTENCE_END.split(part)
            sentences.update(dict.fromkeys(split))
            if len(split) > 1:
                paragraphs[part] = None
        if len(parts) > 1:
            descriptions["\n".join(parts)] = None
    texts = {}
    for kind in (sentences, paragraphs, descriptions):
        kept = [text for text in kind if len(text) >= SHORTEST]
        random.Random(1).shuffle(kept)
        texts.update(dict.fromkeys(kept))
    return list(texts)


def _descriptions():
    done = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", *_lists()], capture_output=True, check=True)
    for stanza in done.stdout.decode(errors="replace").split("\n\n"):
        # A line that begins with a blank continues the field above.
        found = re.search(r"^Description-en:[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        if found:
            yield found[1]


def _paragraphs(description):
    """The short description, then the paragraphs and list items of the long one, each as one line."""
    short, *lines = description.split("\n")
    paragraphs = [[short]]
    fresh = True
    for line in lines:
        line = line[1:]
        if line.strip() in ("", "."):
            fresh = True
            continue
        bullet = BULLET.match(line)
        if fresh or bullet:
            paragraphs.append([])
        paragraphs[-1].append(line[bullet.end():] if bullet else line)
        fresh = False
    return [" ".join(" ".join(paragraph).split()) for paragraph in paragraphs]


def _lists():
    directory = CACHE / "lists"
    if not directory.exists():
        unfinished = CACHE / "lists.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "partial").mkdir(parents=True)
        options = [f"Dir::State::lists={unfinished}", *APT_OPTIONS]
        subprocess.run(["apt-get", "update", "-qq", *(word for option in options for word in ("-o", option))],
                       check=True)
        unfinished.rename(directory)
    files = sorted(directory.glob("*_i18n_Translation-en*"))
    if not files:
        raise RuntimeError(f"apt-get fetched no list Translation-en into {directory}")
    return files
