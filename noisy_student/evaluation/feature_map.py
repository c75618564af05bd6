"""A map of images: those whose features are alike lie close together. P images, F features."""

import numpy as np

COMPONENTS = 50  # principal ones that the map is made of
PERPLEXITY = 30  # about how many neighbors of each image count
LARGEST = 65504.0  # of float16


def feature_map(features: np.ndarray) -> np.ndarray:
    """Places float64 (P,2), each coordinate from 0 to 1, of images with `features` (P,F), P at least 4.

    By t-SNE (van der Maaten and Hinton 2008) of the principal components; the same features give the same map. Images
    that all have the same features are all in the middle.
    """
    from sklearn.decomposition import PCA  # half a second to import, which no other stage needs
    from sklearn.manifold import TSNE

    finite = np.nan_to_num(features.astype(np.float64), posinf=LARGEST, neginf=-LARGEST)
    if not finite.std(axis=0).any():
        return np.full((len(finite), 2), 0.5)
    components = PCA(min(COMPONENTS, *finite.shape), random_state=0).fit_transform(finite)
    components = np.pad(components, ((0, 0), (0, max(0, 2 - components.shape[1]))))
    start = components[:, :2] / components[:, 0].std() * 1e-4  # as t-SNE scales principal components
    perplexity = min(PERPLEXITY, (len(finite) - 1) / 3)
    places = TSNE(perplexity=perplexity, init=start, random_state=0, n_jobs=1).fit_transform(components)
    span = np.ptp(places, axis=0)
    return (places - places.min(axis=0)) / np.where(span > 0, span, 1)
