import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax import CCNet, inference
from ccnet_jax.data.streets import Streets
from tests.models.test_ccnet import bilinear_by_hand


class Mixed:
    """Pictures of three sizes, labelled at random; some void."""

    classes = ("a", "b", "c")
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)

    def __len__(self):
        return 7

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        size = [(40, 33), (32, 64), (33, 33)][i % 3]
        label = rng.integers(0, 3, size).astype(np.uint8)
        label[rng.random(size) < 0.1] = 255
        return {"image": rng.integers(0, 256, (*size, 3), np.uint8), "label": label}

    def name(self, i):
        return f"picture{i}"


def network(flavour="mmseg"):
    model = CCNet(3, 10, flavour, width=0.125)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    strong = jax.tree_util.tree_map_with_path(  # predictions that vary over the picture
        lambda path, x: jax.random.normal(jax.random.key(5), x.shape) if path[-2].key == "classifier" else x,
        variables["params"],
    )
    return model, {**variables, "params": strong}


def test_scores_are_exact_over_pictures_of_different_sizes_and_a_device_mesh(tmp_path):
    source = Mixed()
    seen = set()

    @jax.jit
    def predict(variables, images):
        return (images[..., 0] % 3) * variables["one"]

    def record(variables, images):
        seen.add((images.shape, len(images.sharding.device_set)))
        return predict(variables, images)

    wanted = np.zeros((3, 3), np.int64)
    for i in range(7):
        sample = source[i]
        for true, red in zip(sample["label"].ravel(), sample["image"][..., 0].ravel(), strict=True):
            if true != 255:
                wanted[true, red % 3] += 1
    result = inference.evaluate(record, {"one": jnp.uint8(1)}, source, 2, tmp_path)
    np.testing.assert_array_equal(result["confusion"], wanted)
    hit = np.diag(wanted)
    np.testing.assert_allclose(result["IoU"], hit / (wanted.sum(0) + wanted.sum(1) - hit))
    assert result["pictures"] == 7
    assert seen == {((8, 40, 33, 3), 8), ((8, 32, 64, 3), 8), ((8, 33, 33, 3), 8)}
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"picture{i}.png" for i in range(7)]
    assert inference.evaluate(record, {"one": jnp.uint8(1)}, source, 2, limit=2)["pictures"] == 2


def test_whole_image_is_the_largest_logit():
    model, variables = network()
    images = jnp.asarray(Streets("val")[0]["image"][None, :48, :64])
    logits, _ = jax.jit(model.apply)(variables, images)
    predicted = inference.whole_image(model)(variables, images)
    np.testing.assert_array_equal(predicted, np.asarray(logits).argmax(-1))
    assert len(np.unique(predicted)) > 1


@pytest.mark.parametrize(("flavour", "align_corners"), [("mmseg", False), ("official", True)])
def test_multi_scale_flip_averages_probabilities(flavour, align_corners):
    model, variables = network(flavour)
    image = Streets("val")[0]["image"][:48, :64]
    apply = jax.jit(model.apply)
    total = 0
    for scale in inference.SCALES:
        size = [max(round(side * scale), 32) for side in image.shape[:2]]
        resized = np.stack(
            [bilinear_by_hand(image[..., c].astype(float), *size, False) for c in range(3)], -1
        )
        for mirror in (False, True):
            x = resized[:, ::-1] if mirror else resized
            logits = np.asarray(apply(variables, jnp.asarray(x[None], jnp.float32))[0][0])
            logits = np.stack([bilinear_by_hand(logits[..., c], 48, 64, align_corners) for c in range(3)], -1)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            total = total + (p[:, ::-1] if mirror else p)
    wanted = total / (2 * len(inference.SCALES))
    predict = inference.multi_scale_flip(model)
    got = np.asarray(predict(variables, jnp.asarray(image[None])))[0]
    assert got.dtype == np.uint8
    clear = np.sort(wanted, -1)[..., -1] - np.sort(wanted, -1)[..., -2] > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], wanted.argmax(-1)[clear])
    assert len(np.unique(got)) > 1


def test_flip_makes_prediction_symmetric():
    model, variables = network()
    image = jnp.asarray(Streets("val")[0]["image"][None])
    predict = inference.multi_scale_flip(model, (1.0,))
    straight, mirrored = (np.asarray(predict(variables, x)) for x in (image, image[:, :, ::-1]))
    assert (straight == mirrored[:, :, ::-1]).mean() > 0.999
