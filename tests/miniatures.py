"""Miniature data sets with the true layouts, file names, bit depths and odd cases of the published ones."""

import json
import pathlib

import cv2
import numpy as np
from PIL import Image

from ccnet_jax.data.datasets import camvid, cityscapes, voc2012
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.data.datasets.streets_instances import StreetsInstances
from ccnet_jax.evaluation.instance_scores import runs_of

ORIENTATION = 0x0112  # the EXIF tag


def scene(i: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Scene i of `streets`, resized: RGB uint8 [height, width, 3], class indices 0 to 12 and 255."""
    sample = Streets("train")[i]
    size = (width, height)
    image = cv2.resize(sample["image"], size, interpolation=cv2.INTER_AREA)
    return image, cv2.resize(sample["label"], size, interpolation=cv2.INTER_NEAREST)


def write(path: pathlib.Path, pixels: np.ndarray, **options) -> None:
    """RGB, grey, palette ("palette=") or 16-bit pixels to a file of the suffix's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    palette = options.pop("palette", None)
    image = Image.fromarray(pixels)
    if palette is not None:
        image = Image.frombytes("P", image.size, pixels.tobytes())
        image.putpalette(palette)
    if "mode" in options:
        image = image.convert(options.pop("mode"))
    image.save(path, **options)


def write_cityscapes(root: pathlib.Path, images: int = 3, size: tuple[int, int] = (64, 128)) -> pathlib.Path:
    """All four splits; beside the label ids lie the 16-bit instances, the colours and the polygons."""
    train_ids = cityscapes.LABELS.label_ids[:34]
    for split, kind in (("train", "gtFine"), ("val", "gtFine"), ("test", None), ("train_extra", "gtCoarse")):
        for i in range(images):
            city = ("aachen", "ulm")[i % 2]
            name = f"{city}_{len(split):06d}_{i:06d}"
            image, label = scene(i, *size)
            write(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
            if kind is None:
                continue
            ids = np.zeros_like(label)  # 0 is "unlabeled"
            for train_id in range(19):
                ids[label == train_id] = np.flatnonzero(train_ids == train_id)[0]
            ids[:2] = i  # ids 0, 1, 2 are void
            stem = root / kind / split / city / f"{name}_{kind}"
            write(stem.with_name(stem.name + "_labelIds.png"), ids)
            write(stem.with_name(stem.name + "_instanceIds.png"), ids.astype(np.uint16) * 1000 + 3)
            write(stem.with_name(stem.name + "_color.png"), np.dstack([ids] * 3))
            stem.with_name(stem.name + "_polygons.json").write_text(json.dumps({"objects": []}))
    return root


def write_ade20k(root: pathlib.Path, images: int = 5) -> pathlib.Path:
    """Images of several sizes; of each split the second is grey, the third CMYK, the fourth EXIF-turned."""
    for split in ("training", "validation"):
        for i in range(images):
            image, label = scene(i, 64 + 8 * i, 96)
            name = f"ADE_{split[:5]}_{i + 1:08d}"
            path = root / "images" / split / f"{name}.jpg"
            if i == 1:
                write(path, image[..., 1], quality=95)
            elif i == 2:
                write(path, image, mode="CMYK", quality=95)
            elif i == 3:
                exif = Image.Exif()
                exif[ORIENTATION] = 6  # "turn by 90 degrees clockwise to view"
                write(path, np.ascontiguousarray(np.rot90(image)), exif=exif, quality=95)
            else:
                write(path, image, quality=95)
            numbers = np.where(label == 255, 0, label + 11 * i + 1).astype(np.uint8)
            write(root / "annotations" / split / f"{name}.png", numbers)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return root


def write_voc2012(root: pathlib.Path, images: int = 3) -> pathlib.Path:
    """Palette PNGs in SegmentationClass, grey ones in SegmentationClassAug, and the lists."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(voc2012.PALETTE)] = voc2012.PALETTE
    palette[255] = (224, 224, 192)
    lists = {"train": [], "val": [], "aug": [], "test": []}
    for split, names in lists.items():
        for i in range(images):
            image, label = scene(i, 75, 100 - 10 * i)
            name = f"2007_{len(names) + 100 * len(split):06d}"
            names.append(name)
            write(root / "JPEGImages" / f"{name}.jpg", image, quality=95)
            if split in ("train", "val"):
                write(root / "SegmentationClass" / f"{name}.png", label, palette=palette.tobytes())
            if split in ("train", "aug"):
                write(root / "SegmentationClassAug" / f"{name}.png", label)
    lists |= {"trainval": lists["train"] + lists["val"], "trainaug": lists["train"] + lists["aug"]}
    for split, names in lists.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names) + "\n")
    return root


def write_camvid(root: pathlib.Path, images: int = 4) -> pathlib.Path:
    """96x64 images; the last two classes of `streets` are void."""
    for split in ("train", "val"):
        for i in range(images):
            sample = {key: value[16:80, 48:144] for key, value in Streets("train")[i].items()}
            label = np.where(sample["label"] < len(camvid.CLASSES), sample["label"], 255).astype(np.uint8)
            write(root / "images" / split / f"{i}.png", sample["image"])
            write(root / "labels" / split / f"{i}.png", label)
    return root


def write_coco(root: pathlib.Path, number: int = 5) -> pathlib.Path:
    """Scenes of `streets`, 192x96, in COCO's format: ids with gaps, masks as runs; the last has no object."""
    for split in ("train", "val"):
        scenes = StreetsInstances(split)
        images, annotations = [], []
        for i in range(number):
            write(root / f"{split}2017" / f"{i:012}.png", scenes[i]["image"])
            name, (height, width) = f"{i:012}.png", scenes.size(i)
            images.append({"id": 10 * i + 3, "file_name": name, "height": height, "width": width})
            objects = scenes.objects(i)
            for box, label, mask in zip(objects.boxes, objects.classes, objects.masks, strict=True):
                x0, y0, x1, y1 = box.tolist()
                annotation = {"id": len(annotations) + 1, "image_id": 10 * i + 3}
                annotation |= {"category_id": 2 * int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                annotation |= {"segmentation": runs_of(mask), "area": int(mask.sum()), "iscrowd": 0}
                annotations += [annotation] if i < number - 1 else []
        categories = [{"id": 2 * i + 1, "name": name} for i, name in enumerate(scenes.classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return root


WRITERS = {
    "ade20k": write_ade20k,
    "camvid": write_camvid,
    "cityscapes": write_cityscapes,
    "voc2012": write_voc2012,
}
