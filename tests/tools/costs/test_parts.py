import jax
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.sources import Location
from ccnet_jax.models.config import build_network
from ccnet_jax.tools.costs import parts, sizes
from ccnet_jax.tools.costs.flops import Operations
from ccnet_jax.tools.costs.roofline import bound
from kernels.bench.gpu import GPUS
from tests.helpers import load_config

pytestmark = pytest.mark.slow

TINY = {"model__depth": 10, "model__width": 0.125, "data__crop": (64, 64)}
CLASSES = 13


@pytest.fixture(scope="module")
def training():
    return parts.training_operations(load_config("demo", **TINY), CLASSES, 2)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("jvp CCNet backbone stem_conv1", "stem"),
        ("transpose jvp CCNet backbone CCNet backbone rematted_computation layer3_0 conv1", "stage 3"),
        ("jvp CCNet backbone", "backbone"),
        ("jvp CCNet head context rcca attention", "context"),
        ("jvp CCNet head before conv", "head"),
        ("jvp CCNet auxiliary_head conv", "auxiliary head"),
        ("jvp CCNet", "loss and upsampling"),
        ("transpose jvp", "loss and upsampling"),
        ("", "optimizer"),
        ("layer1_0 conv1", "optimizer"),
    ],
)
def test_paths_belong_to_parts(path, part):
    assert parts.part_of(path.split()) == part


def test_a_training_step_by_hand(training):
    forward, backward = training["forward"], training["backward"]
    # the stem: 64x64 to 32x32 by three 3x3 convolutions, 3 to 8 to 8 to 8 channels; two images
    stem = 2 * (2 * 32 * 32) * 9 * (3 * 8 + 8 * 8 + 8 * 8)
    assert forward["stem"].products == stem
    assert backward["stem"].products == 2 * stem - 2 * (2 * 32 * 32) * 9 * 3 * 8  # images have no gradient
    for part in ("stage 1", "stage 2", "stage 3", "stage 4", "context", "head", "auxiliary head"):
        assert backward[part].products == 2 * forward[part].products, part
    assert forward["optimizer"].products == 0
    network = build_network(load_config("demo", **TINY).model, CLASSES)
    count = sum(x.size for x in jax.tree.leaves(parts.variable_shapes(network)["params"]))
    assert forward["optimizer"].elementwise > 3 * count  # momentum, decay, step
    assert sum(parts.parameters(parts.variable_shapes(network)).values()) == count


def test_testing_has_the_forward_pass_of_one_image(training):
    tested = parts.inference_operations(load_config("demo", **TINY), CLASSES, (64, 64))
    assert "auxiliary head" not in tested
    assert "optimizer" not in tested
    for part in ("stem", "stage 3", "context", "head"):
        assert 2 * tested[part].products == training["forward"][part].products


def test_recomputed_norms_cost_elementwise_work_alone(training):
    again = parts.training_operations(load_config("demo", **TINY, model__remat="norms"), CLASSES, 2)[
        "backward"
    ]
    for part in ("stage 1", "stage 4"):
        assert again[part].products == training["backward"][part].products
        assert again[part].elementwise > training["backward"][part].elementwise


def test_accumulation_costs_the_same_products_and_one_sum_of_gradients_a_part(training):
    accumulated = parts.training_operations(load_config("demo", **TINY, accumulate=2), CLASSES, 2)
    for direction, by_part in training.items():
        assert {part: count.products for part, count in accumulated[direction].items()} == {
            part: count.products for part, count in by_part.items()
        }
    network = build_network(load_config("demo", **TINY).model, CLASSES)
    count = sum(parts.parameters(parts.variable_shapes(network)).values())
    more = accumulated["forward"]["optimizer"].elementwise - training["forward"]["optimizer"].elementwise
    assert 2 * count <= more < 2.1 * count  # a sum for each part
    with pytest.raises(UserError, match="a batch of 3 on one GPU cannot be split into config.accumulate=2"):
        parts.training_operations(load_config("demo", **TINY, accumulate=2), CLASSES, 3)


def test_remat_costs_a_forward_pass(training):
    config = load_config("demo", **TINY, model__remat="blocks")
    again = parts.training_operations(config, CLASSES, 2)
    for part in ("stage 1", "stage 4"):
        recomputed = again["backward"][part].products - training["backward"][part].products
        assert recomputed == training["forward"][part].products
    assert again["forward"]["stage 2"].products == training["forward"]["stage 2"].products


def test_sizes_without_files():
    cityscapes = load_config("cityscapes:mmseg-r50-769x769-80k")
    assert sizes.class_count(cityscapes) == 19
    assert sizes.training_size(cityscapes) == (769, 769)
    assert sizes.image_size(cityscapes) == (1024, 2048)
    assert sizes.image_size(load_config("ade20k")) == (512, 512)
    assert sizes.training_size(load_config("demo")) == (96, 192)
    assert sizes.class_count(load_config("folder", data__classes=("a", "b"))) == 2
    assert sizes.size_of("512x1024") == (512, 1024)
    with pytest.raises(UserError, match=r"pass the classes as --config.data.classes"):
        sizes.class_count(load_config("folder"))
    with pytest.raises(UserError, match=r"pass --config.data.crop"):
        sizes.training_size(load_config("folder", data__crop=None, data__scale=None))
    with pytest.raises(UserError, match="2 numbers, but the data set has 19 classes"):
        sizes.class_count(load_config("cityscapes", loss__class_weights=(1.0, 2.0)))
    for text in ("512", "x5", "0x7", "axb"):
        with pytest.raises(UserError, match="HEIGHTxWIDTH"):
            sizes.size_of(text)


def test_the_size_of_the_built_in_images():
    streets = DATASETS["streets"]
    assert streets.open(Location(), "val")[0]["image"].shape[:2] == streets.size


def test_the_larger_time_bounds():
    gpu = GPUS["a100"]
    assert bound(gpu, int(312e12), 0, "bfloat16").seconds == pytest.approx(1)
    assert bound(gpu, int(312e12), 0, "float32").seconds == pytest.approx(2)
    memory = bound(gpu, int(1e12), int(gpu.bandwidth) * 3, "float32")
    assert (memory.seconds, memory.by) == (pytest.approx(3), "memory")
    assert bound(gpu, int(1e15), 1, "float32").by == "compute"


def test_operations_add_up():
    assert Operations(1, 2) + Operations(3, 4) * 2 == Operations(7, 10)


def test_instance_segmentation_has_parts_of_its_own():
    changes = {"model__width": 0.125, "detection__sampled_regions": 8, "detection__train_proposals": 8}
    config = load_config("streets_instances", **changes)
    classes, size = sizes.class_count(config), sizes.training_size(config)
    assert (classes, size, sizes.image_size(config)) == (5, (96, 192), (96, 192))
    found = parts.training_operations(config, classes, 2)
    tested = parts.inference_operations(config, classes, size)
    for part in ("stem", "stage 4", "context", "pyramid", "proposals", "boxes", "masks"):
        assert found["forward"][part].products > 0, part
        assert found["backward"][part].products > found["forward"][part].products, part
        assert tested[part].products > 0, part
    # four levels of 1x1 and 3x3 convolutions to 32 channels, two images
    places = [24 * 48 // 4**i for i in range(4)]
    lateral = sum(n * c * 32 for n, c in zip(places, (8, 16, 32, 64), strict=True))
    assert found["forward"]["pyramid"].products == 2 * 2 * (lateral + sum(places) * 9 * 32 * 32)
    assert "head" not in found["forward"]


def test_the_canvas_of_a_config_is_found_or_asked_for():
    assert sizes.class_count(load_config("coco")) == 80
    assert sizes.class_count(load_config("coco", data__classes=("a", "b"))) == 2
    assert sizes.training_size(load_config("coco")) == (800, 1344)
    with pytest.raises(UserError, match=r"pass --config.data.resize=LONG,SHORT"):
        sizes.training_size(load_config("coco", data__resize=None))
