"""Run each line of docs/start.md in a fresh virtual environment, as a new user would.

    make try                    # a few minutes, and the network for the installation
    python tools/try_start.py --python .venv/bin/python     # in an environment that is there

Photos are drawn scenes, and `--clip` names the embedded CLIP, because the page's CLIP has 600 MB. Everything
else runs as printed. Then each extra of the page's table is resolved together with `constraints.txt`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "start.md"
BIG, SMALL = "--clip openai/clip-vit-base-patch16", "--clip tiny"
PHOTOS = """
from pathlib import Path
from foveate.foreground.pictures import open_picture
from foveate.world.photos import scene_photos

photos = scene_photos(["red star", "blue ring"], per_class=20, seed=1)
for number, sample in enumerate(photos.samples):
    folder = Path("photos") / ("barn_owl", "heron")[sample.label]
    folder.mkdir(parents=True, exist_ok=True)
    open_picture(sample.picture).resize((128, 128)).save(folder / f"{number}.jpg")
open_picture(photos.samples[0].picture).save("new.jpg")
"""


def lines_of(page: str) -> Iterator[str]:
    """Yield the commands of the page's shell blocks."""
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        yield from (line for line in block.splitlines() if line.strip())


def extras_of(page: str) -> list[str]:
    """Return the extras in the page's table."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def run(command: str, folder: Path, binaries: Path) -> None:
    """Run a command with the environment's programs first on the path; end at the first failure."""
    print(f"$ {command}", flush=True)
    shell = f'export PATH="{binaries}:$PATH"; set -e; {command}'
    done = subprocess.run(["bash", "-c", shell], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}:\n{done.stdout.decode(errors='replace')[-3000:]}")


def main() -> None:
    """Run all lines, then resolve all extras."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", help="Python of an environment with foveate; nothing is installed then")
    parser.add_argument("--extras", action="store_true", help="only resolve the extras")
    given = parser.parse_args()
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.python:
            binaries = Path(given.python).absolute().parent
        else:
            venv.create(folder / ".venv", with_pip=True)
            binaries = folder / ".venv" / "bin"
            run(f"pip install --quiet -c {ROOT}/constraints.txt -e {ROOT}", folder, binaries)
        (folder / "draw.py").write_text(PHOTOS)
        run("python draw.py", folder, binaries)
        for line in [] if given.extras else lines_of(page):
            installs = "pip install" in line or "venv" in line
            if installs and given.python:
                continue
            wanted = line.replace(BIG, SMALL).replace("foveate demo", "foveate demo --seeds 1")
            if "venv" in wanted:
                continue  # done above, in another folder
            wanted = wanted.replace("-e '.[", f"-c {ROOT}/constraints.txt -e '{ROOT}[")
            run(wanted, folder, binaries)
        for extra in [] if given.python else extras_of(page):
            run(
                f"pip install --quiet --dry-run -c {ROOT}/constraints.txt '{ROOT}[{extra}]'", folder, binaries
            )
    print("docs/start.md: every line ran")


if __name__ == "__main__":
    main()
