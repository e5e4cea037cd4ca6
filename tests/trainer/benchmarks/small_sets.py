"""Small benchmarks in the forms of published ones, made on the spot."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ("red", "blue", "green", "yellow", "black", "white")


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_images(folder: Path, names: list[str]) -> None:
    """Write one image of one colour for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (40, 30), COLOURS[number % len(COLOURS)]).save(folder / name)


def write_coco(root: Path) -> None:
    """Write six images with two captions each in COCO's form; the last one has none."""
    names = [f"{i:012d}.jpg" for i in range(1, 7)]
    write_images(root / "coco/val2014", names)
    rows = [{"image_id": i, "caption": f"{words} {COLOURS[i - 1]} wall"} for i in range(1, 6) for words in ("a", "one")]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names, 1)]
    write_json(root / "coco/captions.json", {"images": images, "annotations": rows})


def write_vqa(root: Path) -> None:
    """Write a question about each of five images in VQAv2's form, with ten answers each."""
    names = [f"COCO_val2014_{i:012d}.jpg" for i in range(1, 6)]
    write_images(root / "vqa/val2014", names)
    questions = [{"image_id": i, "question": "what colour is it?", "question_id": i * 1000} for i in range(1, 6)]
    write_json(root / "vqa/questions.json", {"questions": questions})
    answers = [
        {"question_id": i * 1000, "answers": [{"answer": COLOURS[i - 1], "answer_id": n} for n in range(1, 11)]}
        for i in range(1, 6)
    ]
    write_json(root / "vqa/annotations.json", {"annotations": answers})
