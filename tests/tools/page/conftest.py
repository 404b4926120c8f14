"""What the tests of the page share: networks of random weights, and an explorer of two of them."""

import pytest

import ccnet_jax
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.tools.page.answers import Explorer
from ccnet_jax.tools.page.networks import Network
from ccnet_jax.tools.page.own_images import OwnImages
from ccnet_jax.tools.page.uploads import Limits
from tests import helpers

# Images of the demo are shown at half their size: 96x48.
LIMITS = Limits(megabytes=1, megapixels=1, side=96)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """{context: folder} of runs of the demo's network."""
    root = tmp_path_factory.mktemp("runs")
    for context in ("rcca", "none"):
        config = helpers.load_config("demo", model__context=context)
        helpers.write_run(root / context, config, Streets("val"))
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="session")
def networks(runs):
    return [Network(name, ccnet_jax.load(runs[name])) for name in ("rcca", "none")]


@pytest.fixture
def explorer(networks, runs):
    return Explorer(networks, OwnImages.of_run(str(runs["rcca"])), LIMITS)
