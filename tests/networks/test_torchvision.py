"""Every classification and segmentation network of torchvision, and the backbones of its detectors."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from waterline.frontends.torch import load  # noqa: E402

from .conftest import check_batch, check_values, fill  # noqa: E402

# One of each family: name -> size of the image.
VALUES = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 64,
}
FIXED_BATCH = ("vit_", "maxvit_")  # a class token, and einsum: their parts hold the batch that was traced


def build(torchvision: Any, name: str) -> torch.nn.Module:
    models = torchvision.models
    options: dict[str, Any] = {}
    if name in models.list_models(module=models.segmentation):
        options["weights_backbone"] = None
    elif name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return models.get_model(name, weights=None, **options).eval()


@pytest.mark.usefixtures("uninitialised")
@pytest.mark.parametrize("name", VALUES)
def test_classification(torchvision: Any, name: str) -> None:
    imported = check_values(fill(build(torchvision, name)), (1, 3, VALUES[name], VALUES[name]))
    assert imported.graph.shapes[imported.graph.outputs[0]] == (1, 1000)


@pytest.mark.usefixtures("uninitialised")
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_segmentation(torchvision: Any, name: str) -> None:
    """They return a dictionary; an auxiliary head is a second entry."""
    module = build(torchvision, name)
    if name.startswith("fcn"):
        module = torchvision.models.get_model(name, weights=None, weights_backbone=None, aux_loss=True)
    imported = check_values(fill(module), (1, 3, 48, 32))
    assert [imported.graph.shapes[output] for output in imported.graph.outputs] == [(1, 21, 48, 32)] * (
        2 if name.startswith("fcn") else 1
    )


@pytest.mark.usefixtures("uninitialised")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_detection_backbone(torchvision: Any, name: str) -> None:
    """A pyramid of features: a dictionary of five maps."""
    from torchvision.models.detection import backbone_utils

    is_mobile = name.startswith("mobilenet")
    make = backbone_utils.mobilenet_backbone if is_mobile else backbone_utils.resnet_fpn_backbone
    module = make(backbone_name=name, weights=None, **({"fpn": True} if is_mobile else {}))
    check_values(fill(module), (1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.usefixtures("uninitialised")
@pytest.mark.timeout(3600)
def test_every_network(torchvision: Any, subtests: pytest.Subtests) -> None:
    models = torchvision.models
    names = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
    assert len(names) > 80
    for name in names:
        with subtests.test(name):
            is_transformer = name.startswith(("vit", "swin", "maxvit"))
            size = 224 if is_transformer else 299 if name == "inception_v3" else 64
            imported = load(build(torchvision, name), torch.zeros(1, 3, size, size))
            if not name.startswith(FIXED_BATCH):
                check_batch(imported)


@pytest.mark.slow
@pytest.mark.usefixtures("uninitialised")
@pytest.mark.timeout(3600)
def test_every_detection_backbone(torchvision: Any, subtests: pytest.Subtests) -> None:
    from torchvision.models import detection

    for name in torchvision.models.list_models(module=detection):
        with subtests.test(name):
            detector = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
            check_batch(load(detector.backbone, torch.zeros(1, 3, 320, 320)))
