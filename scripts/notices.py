"""Prints the copyright notices and licences of the Rust crates that are compiled into the extension.

    notices.py pg17

A crate's licence files are those in its sources, also those of C code that it brings along. Texts that several crates have
word for word are printed once.
"""

import json
import pathlib
import re
import subprocess
import sys

LICENCE = re.compile(r"(licen[cs]e|copying|copyright|notice|authors)([-._].*)?", re.IGNORECASE)
NO_TEXT = {".rs", ".toml", ".py", ".json", ".html"}


def main():
    host = re.search("^host: (.*)$", output("rustc", "-vV"), re.MULTILINE)[1]
    metadata = json.loads(output("cargo", "metadata", "--format-version", "1", "--locked", "--no-default-features",
                                 "--features", sys.argv[1], "--filter-platform", host))
    packages = {package["id"]: package for package in metadata["packages"]}
    texts = {}
    print("The library insitu.so has Rust's standard library in it (MIT OR Apache-2.0), and these crates:\n")
    for package in sorted(linked(metadata, packages), key=lambda package: (package["name"], package["version"])):
        name = f"{package['name']} {package['version']}"
        print(f"  {name}: {package['license'] or 'see its licence below'}")
        for path in licence_files(package):
            text = path.read_text(errors="replace").strip()
            texts.setdefault(text, []).append(name)
    for text, names in texts.items():
        print(f"\n{'-' * 78}\n{', '.join(dict.fromkeys(names))}:\n\n{text}")


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def linked(metadata, packages):
    """The packages of others whose code is in the library: not those that only run when it is built."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package in found or any("proc-macro" in target["kind"] for target in packages[package]["targets"]):
            continue
        found.add(package)
        waiting += [dependency["pkg"] for dependency in nodes[package]["deps"]
                    if any(kind["kind"] is None for kind in dependency["dep_kinds"])]
    return [packages[package] for package in found if packages[package]["source"]]


def licence_files(package):
    directory = pathlib.Path(package["manifest_path"]).parent
    return sorted(path for path in directory.rglob("*")
                  if LICENCE.fullmatch(path.name) and path.suffix not in NO_TEXT and path.is_file())


if __name__ == "__main__":
    main()
