"""Keep the pictures that the tests in the browser have left, as PNGs of few colours: `make screenshots`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).resolve().parent / "images"
PICTURES = IMAGES.parent.parent / ".airflow" / "pictures"


def main() -> None:
    """Write docs/images anew."""
    for taken in sorted(PICTURES.glob("*.png")):
        path = IMAGES / taken.name
        with Image.open(taken) as picture:
            # These pages do not miss the other colours.
            picture.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"{path.name}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
