import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from noisy_student.models.classifier import new_classifier
from noisy_student.training.replica import Replica, with_shared_norms


@pytest.mark.parametrize("model", ["cnn_4", "torchvision/resnet18", "timm/tf_efficientnet_lite0"])
def test_shared_norms_are_the_same_network_with_the_same_tensors(make_split, model):
    network = new_classifier(model, make_split(0, 30)).network.eval()
    images = torch.rand(2, 1, 32, 32)
    before, names = network(images), list(network.state_dict())
    shared = with_shared_norms(network).eval()
    norms = [module for module in shared.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert list(shared.state_dict()) == names
    assert torch.allclose(shared(images), before, atol=1e-5)


def test_alone_a_replica_is_the_classifier(make_split):
    classifier = new_classifier("cnn_2", make_split(0, 9))
    replica = Replica(classifier)
    assert replica.module is classifier
    loss = torch.tensor(2.0)
    replica.end_step(loss)
    assert loss == 2.0
