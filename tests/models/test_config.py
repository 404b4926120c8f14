import pytest

from ccnet_jax.common.fields import keys_of
from ccnet_jax.models.backbones import BACKBONES, Backbone
from ccnet_jax.models.config import ModelConfig, build_network

KEYS = {key.name: key for key in keys_of(ModelConfig)}


def test_the_network_has_the_settings_of_the_config():
    config = ModelConfig(
        backbone="resnet",
        depth=18,
        flavour="official",
        stem="7x7",
        width=0.25,
        context="psp",
        loops=3,
        align_corners=False,
        implementation="xla",
        remat="norms",
    )
    network = build_network(config, 7, "bfloat16")
    assert (network.num_classes, network.dtype) == (7, "bfloat16")
    for name in KEYS:
        assert getattr(network, name) == getattr(config, name), name


def test_the_default_is_complete():
    assert ModelConfig().problems() == []
    for name, key in KEYS.items():
        assert key.problem(getattr(ModelConfig(), name)) is None, name


def test_a_run_from_before_there_were_backbones_has_a_resnet():
    assert KEYS["backbone"].setting.before == "resnet"


def test_a_depth_that_no_backbone_has_gets_a_message():
    assert KEYS["depth"].problem(42) == (
        "config.depth=42 does not exist; choose one of 10, 18, 34, 50, 101, 152"
    )


def test_a_depth_that_only_another_backbone_has_gets_a_message(monkeypatch):
    monkeypatch.setitem(BACKBONES, "toy", Backbone(depths=(4, 5), build=lambda settings, name: None))
    assert KEYS["depth"].problem(5) is None
    assert ModelConfig(backbone="toy", depth=5).problems() == []
    assert ModelConfig(depth=5).problems() == [
        "config.model.depth=5 does not exist for config.model.backbone='resnet'; "
        "choose one of 10, 18, 34, 50, 101, 152"
    ]
    assert "choose one of 4, 5" in ModelConfig(backbone="toy").problems()[0]


@pytest.mark.parametrize(
    ("name", "value"), [("backbone", "resnext"), ("context", "cca"), ("flavour", "keras")]
)
def test_a_part_that_does_not_exist_gets_a_message(name, value):
    assert f"config.{name}='{value}' does not exist; choose one of" in KEYS[name].problem(value)
