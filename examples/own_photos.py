"""From a folder of photos to a saved classifier. The photos are drawn here; use your own instead.

Run it with `python examples/own_photos.py`. It takes a few seconds and needs no network: it uses the
embedded CLIP, which knows only drawn shapes. For photographs use `clip="openai/clip-vit-base-patch16"`.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from foveate import Classifier
from foveate.world.scenes import Scene, render

NAMES = ["red circle", "blue square", "green star"]
PLACES = ["grass", "sand", "snow", "brick"]


def draw(name: str, number: int, photo: Path, mask: Path | None = None) -> None:
    """Draw one scene and write its picture and its mask: white on the object, black elsewhere."""
    colour, shape = name.split()
    place = PLACES[number % len(PLACES)]
    pictures, masks = render([Scene(shape, colour, place=place, x=0.4 + 0.05 * (number % 5), seed=number)])
    photo.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures[0]).save(photo)
    if mask is not None:
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks[0].astype(np.uint8) * 255).save(mask)


def main(home: Path) -> None:
    """Train on `home/photos` and `home/masks`, and predict the classes of a few more pictures."""
    for name in NAMES:
        for number in range(6):
            file = f"{name}/{number}.png"
            draw(name, number, home / "photos" / file, home / "masks" / file)

    # First CoOp, then FVG-PT on the frozen result. Masks are needed only here.
    classifier = Classifier("fvgpt+coop", clip="tiny").fit(
        home / "photos", masks=home / "masks", shots=4, seed=1, recipe={"epochs": 3}
    )

    # `classes` may contain a name that is in no training picture.
    draw("green star", 90, home / "new" / "star.png")
    draw("yellow heart", 91, home / "new" / "heart.png")
    photos = sorted((home / "new").glob("*.png"))
    answers = classifier.predict(photos, classes=["yellow heart"])
    for answer in answers:
        print(f"{Path(answer.photo).name}: {answer.label} ({answer.probability:.2f})")

    # The saved model has the learned parameters and the settings, but not the CLIP weights.
    classifier.save_pretrained(home / "model")
    again = Classifier.from_pretrained(home / "model")
    same = [a.scores for a in again.predict(photos, classes=["yellow heart"])] == [a.scores for a in answers]
    print(f"loaded from {home / 'model'}: the answers are {'the same' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
