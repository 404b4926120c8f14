import jax
import jax.numpy as jnp
import numpy as np

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


def network():
    model = CCNet(3, 10, "mmseg", width=0.125)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    strong = jax.tree_util.tree_map_with_path(  # predictions that vary over the picture
        lambda path, x: jax.random.normal(jax.random.key(5), x.shape) if path[-2].key == "classifier" else x,
        variables["params"],
    )
    return model, {**variables, "params": strong}


def confusion_one_by_one(model, variables, source, count):
    wanted = np.zeros((3, 3), np.int64)
    apply = jax.jit(model.apply)
    for i in range(count):
        sample = source[i]
        logits, _ = apply(variables, sample["image"][None])
        predicted = np.asarray(logits[0]).argmax(-1)
        for true, guess in zip(sample["label"].ravel(), predicted.ravel(), strict=True):
            if true != 255:
                wanted[true, guess] += 1
    return wanted


def test_scores_are_exact_over_pictures_of_different_sizes_and_a_device_mesh(tmp_path):
    model, variables = network()
    source = Mixed()
    wanted = confusion_one_by_one(model, variables, source, 7)
    assert (wanted.sum(0) > 0).sum() >= 2  # the network does not say one class everywhere
    result = inference.evaluate(inference.whole_image(model), variables, source, 2, tmp_path)
    hit, true, predicted = np.diag(wanted), wanted.sum(1), wanted.sum(0)
    np.testing.assert_allclose(result["IoU"], hit / (true + predicted - hit), atol=2e-3)
    np.testing.assert_allclose(result["pixel_accuracy"], hit.sum() / true.sum(), atol=2e-3)
    assert result["pictures"] == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"picture{i}.png" for i in range(7)]
    assert inference.evaluate(inference.whole_image(model), variables, source, 2, limit=2)["pictures"] == 2


def test_multi_scale_flip_averages_probabilities():
    model, variables = network()
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
            logits = np.asarray(jax.image.resize(logits, (48, 64, 3), "bilinear", antialias=False))
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
