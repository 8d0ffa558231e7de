"""The convolutional networks of timm."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from waterline.frontends.torch import load  # noqa: E402

from .conftest import check_batch, check_values, fill  # noqa: E402

# Small networks of many families, each for what it does that others do not.
VALUES = (
    "convnextv2_atto",  # global response normalisation
    "cspresnet50",  # splits
    "dla34",
    "efficientnet_cc_b0_4e",  # filters mixed from experts
    "edgenext_xx_small",  # depthwise splits, attention over channels
    "efficientnet_lite0",
    "ese_vovnet19b_dw",  # one-shot aggregation
    "fasternet_t0",  # partial convolutions
    "gcresnext26ts",  # global context by products of activations
    "ghostnet_050",  # slices of concatenations
    "hrnet_w18_small",  # nearest upsampling
    "inception_next_atto",  # bands of depthwise filters
    "mobilenetv4_conv_small",
    "mobileone_s0",  # branches that could be merged
    "nf_regnet_b0",  # scaled weight standardisation
    "poolformer_s12",  # pooling minus identity, group normalisation
    "repvgg_a0",
    "res2net50_14w_8s",
    "resnest14d",  # softmax over splits
    "resnetv2_50d_gn",
    "rexnet_100",
    "selecsls42",
    "seresnext26d_32x4d",
    "skresnet18",  # selection among branches
    "starnet_s1",  # products of branches
    "tf_efficientnet_b0",  # TensorFlow's padding
    "tf_mixnet_s",  # several filter sizes in one layer
    "tinynet_e",
    "tresnet_m",  # blurred pooling, space to depth
    "xception41",
)

# timm's files that define convolutional networks; the hybrids among them are here because they convert as well.
FILES = (
    *("byobnet", "convmixer", "convnext", "cspnet", "cspnext", "densenet", "dla", "dpn", "edgenext"),
    *("efficientnet", "efficientvit_mit", "fasternet", "focalnet", "ghostnet", "hardcorenas", "hgnet", "hrnet"),
    *("inception_next", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2", "mambaout"),
    *("metaformer", "mobilenetv3", "mobilenetv5", "nasnet", "nfnet", "pnasnet", "rdnet", "regnet", "repghost"),
    *("repvit", "res2net", "resnest", "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet", "starnet"),
    *("tresnet", "vgg", "vovnet", "xception", "xception_aligned"),
)
ONE_IMAGE = "_cc_"  # CondConv: every image has filters of its own, and the trace is for one image
MOST_PARAMETERS = 400e6  # larger ones differ from their smaller relatives by numbers only


@pytest.mark.usefixtures("uninitialised")
@pytest.mark.parametrize("name", VALUES)
def test_values(timm: Any, name: str) -> None:
    # Weights are standardised in float32, and without normalisation of activations this network magnifies all errors:
    # PyTorch's own float32 is off by more than 1e-3.
    tolerance = 1e-3 if name == "nf_regnet_b0" else 1e-5
    imported = check_values(
        fill(timm.create_model(name)), (1, 3, 64, 64), tolerance, is_for_any_batch=ONE_IMAGE not in name
    )
    assert imported.graph.shapes[imported.graph.outputs[0]] == (1, 1000)


@pytest.mark.usefixtures("uninitialised")
def test_features(timm: Any) -> None:
    """A backbone that returns a list of feature maps."""
    imported = check_values(fill(timm.create_model("resnet18", features_only=True)), (1, 3, 64, 64))
    assert len(imported.graph.outputs) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("uninitialised")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("file", FILES)
def test_every_network(timm: Any, subtests: pytest.Subtests, file: str) -> None:
    names = timm.list_models(module=file)
    assert names
    for name in names:
        with torch.device("meta"):
            parameters = sum(x.numel() for x in timm.create_model(name).parameters())
        if parameters > MOST_PARAMETERS:
            continue
        with subtests.test(name):
            module = timm.create_model(name).eval()
            imported = load(module, torch.zeros(1, *module.pretrained_cfg["input_size"]))
            if ONE_IMAGE not in name:
                check_batch(imported)
