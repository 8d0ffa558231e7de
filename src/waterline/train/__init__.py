"""Training of ConvFirst (and of ConvNeXt, to compare) with PyTorch, in one process or under torchrun.

    from waterline import train

    data = train.open_data("digits")
    recipe = train.Recipe.small(epochs=5)
    model = train.build_model("convfirst", len(data.classes), drop_path_rate=recipe.drop_path, seed=recipe.seed)
    result = train.fit(model, data, recipe)
    print(result.accuracy, train.verify(result.trained, data))

Needs the extra `train`: PyTorch, torchvision, TensorBoard. docs/training.md tells the rest.
"""

from waterline.errors import InvalidArgument

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise InvalidArgument("training needs PyTorch, which is not installed", "pip install 'waterline[train]'") from error

from waterline.train.architecture import Architecture, architecture, build_model
from waterline.train.datasets import Data, digits, from_folder, open_data
from waterline.train.evaluation import Verification, verify
from waterline.train.recipe import Recipe
from waterline.train.training import Result, fit
from waterline.train.watching import Epoch, Step, TensorBoard, Watcher

__all__ = [
    "Architecture",
    "Data",
    "Epoch",
    "Recipe",
    "Result",
    "Step",
    "TensorBoard",
    "Verification",
    "Watcher",
    "architecture",
    "build_model",
    "digits",
    "fit",
    "from_folder",
    "open_data",
    "verify",
]
