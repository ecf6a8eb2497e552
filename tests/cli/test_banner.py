import io

from rich.console import Console

from cli.banner import models_table
from contracts.inference.registry import ModelInfo

BASE_ALONE = ModelInfo(
    name="vgg16",
    network="vgg16",
    state="unavailable",
    reason="The classifier is missing.",
    aliases={"champion": 1},
    versions=[1],
    classes=1000,
    input_size=(224, 224),
    operations=["embed"],
    licence="CC-BY-4.0",
)


def test_a_network_without_its_classifier_is_partly_ready() -> None:
    nothing = BASE_ALONE.model_copy(update={"name": "squeezenet", "operations": []})
    screen = Console(file=io.StringIO(), width=80)
    screen.print(models_table([BASE_ALONE, nothing]))
    assert isinstance(screen.file, io.StringIO)
    rows = [line.split() for line in screen.file.getvalue().splitlines()[1:]]
    assert rows == [["vgg16", "partly", "embed"], ["squeezenet", "unavailable", "-"]]
