"""The two published recipes, which the configs of all data sets start from."""

import ml_collections

from ccnet_jax.config import default


def official() -> ml_collections.ConfigDict:
    """The recipe of the paper's section 4.2 and of its authors' code.

    SGD with momentum 0.9 and weight decay 1e-4, poly learning rate from 1e-2 with power 0.9, ratios 0.75 to 2
    and mirroring. The authors' code adds OHEM (threshold 0.7) and keeps 100,000 pixels of the two images on
    each GPU; here the count is an image's.
    """
    config = default()
    config.model.flavour = "official"
    config.data.scale = (0.75, 2.0)
    config.data.flip = True
    config.data.workers = 8
    config.optimizer.learning_rate = 1e-2
    config.optimizer.min_learning_rate = 0.0
    config.optimizer.weight_decay = 1e-4
    config.loss.name = "ohem"
    config.loss.ohem_min_kept = 50_000
    return config


def mmseg() -> ml_collections.ConfigDict:
    """The recipe of mmsegmentation's CCNet configs.

    SGD with momentum 0.9 and weight decay 5e-4, poly learning rate from 1e-2 to 1e-4 with power 0.9, ratios
    0.5 to 2, crops with at most 75 % of one class, mirroring and photometric distortion. The loss is divided
    by the number of all pixels, void ones too (mmsegmentation's default, avg_non_ignore=False), and the last
    step has the lowest learning rate.
    """
    config = default()
    config.model.flavour = "mmseg"
    config.data.scale = (0.5, 2.0)
    config.data.cat_max_ratio = 0.75
    config.data.flip = True
    config.data.distort = True
    config.data.workers = 8
    config.optimizer.learning_rate = 1e-2
    config.optimizer.min_learning_rate = 1e-4
    config.optimizer.weight_decay = 5e-4
    config.optimizer.poly_end = "last_step"
    config.loss.average_over = "all"
    config.loss.ohem_min_kept = 50_000
    return config


RECIPES = {"official": official, "mmseg": mmseg}  # {flavour: its recipe}
