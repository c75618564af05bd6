"""Data-parallel training: each rank has a replica of the classifier and computes the gradients of its share of a batch.

Their sum is the batch's gradient, so all replicas take the same step (Li et al. 2020, "PyTorch Distributed", arXiv
2006.15704). With one rank nothing here does anything.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from noisy_student.core import ranks
from noisy_student.models.classifier import Classifier


def with_shared_norms(network: nn.Module) -> nn.Module:
    """`network` with batch norms that see the images of all ranks. timm's own way also keeps the activations that its
    norms have."""
    from noisy_student.core.torchvision_compat import timm  # two seconds to import

    converted: nn.Module = timm().layers.convert_sync_batchnorm(network)
    return converted


class Replica:
    """This rank's copy of a classifier in training. All begin with the weights of the first rank's."""

    def __init__(self, classifier: Classifier):
        self.classifier, self.count = classifier, ranks.world_size()
        self.module: nn.Module = classifier
        if self.count > 1:
            if classifier.mean.is_cuda:  # batch norms see the whole batch; on a CPU each sees its rank's share
                classifier.network = with_shared_norms(classifier.network)
            # A phase may train only some tensors. To look for them also keeps the order in which gradients are summed
            # up the same after a resume.
            self.module = DistributedDataParallel(classifier, find_unused_parameters=True)
            self.module.broadcast_buffers = False  # in each forward pass; `end_step` averages them instead

    def backward(self, part_loss: Tensor) -> None:
        """Add the gradients of the `part_loss`; those of the last part of a batch are summed over the ranks."""
        (part_loss * self.count).backward()  # DistributedDataParallel takes the mean

    def part(self, last: bool) -> AbstractContextManager[None]:
        """A context for the forward and the backward pass of a part of a batch, which may be the `last` one."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    @torch.no_grad()
    def end_step(self, batch_loss: Tensor) -> None:
        """Sum the `batch_loss` over the ranks in place, and average the statistics of the batch norms that learned."""
        if self.count == 1:
            return
        dist.all_reduce(batch_loss)
        learned = [norm for norm in self.classifier.modules() if isinstance(norm, _BatchNorm) and norm.training]
        statistics = [each for norm in learned for each in norm.buffers() if each.is_floating_point()]
        if statistics:
            whole = torch.cat(statistics)
            dist.all_reduce(whole)
            torch._foreach_copy_(statistics, (whole / self.count).split([len(each) for each in statistics]))
