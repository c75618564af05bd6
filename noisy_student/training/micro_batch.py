"""A micro-batch: the images that go through a network at once, a batch or a part of one.

B images, the last P of them from the pool, C channels, H x W pixels, K classes.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MicroBatch:
    """B noised images with their targets, the labeled images first."""

    images: Tensor  # uint8 (B,C,H,W), noised
    targets: Tensor  # float32 (B,K), rows sum to 1
    weights: Tensor  # float32 (B,); those of a batch sum to 1
    from_pool: Tensor  # float32 (B,), 1 for pool images and 0 for labeled ones
    weak: Tensor | None = None  # uint8 (P,C,H,W), the pool images weakly noised, for objectives with online labels
    teacher_logits: Tensor | None = None  # float32 (B,K), a teacher's logits for the images without noise

    def micro_batch(self, stride: int, first: int) -> "MicroBatch":
        """Every `stride`-th image from the `first` on."""
        return MicroBatch(
            self.images[first::stride],
            self.targets[first::stride],
            self.weights[first::stride],
            self.from_pool[first::stride],
            self._weak_views(stride, first),
            None if self.teacher_logits is None else self.teacher_logits[first::stride],
        )

    def _weak_views(self, stride: int, first: int) -> Tensor | None:
        """The weak views of the pool images among every `stride`-th image from the `first` on."""
        if self.weak is None:
            return None
        labeled = len(self.images) - len(self.weak)
        return self.weak[(first - labeled) % stride :: stride]
