"""A map of images: those whose features are alike lie close together. P images, F features."""

import numpy as np

COMPONENTS = 50  # principal ones that the map is made of
PERPLEXITY = 30  # about how many neighbors of each image count


def feature_map(features: np.ndarray) -> np.ndarray:
    """Places float64 (P,2), each coordinate from 0 to 1, of images with `features` (P,F), P at least 4.

    By t-SNE (van der Maaten and Hinton 2008) of the principal components; the same features give the same map.
    """
    from sklearn.decomposition import PCA  # half a second to import, which no other stage needs
    from sklearn.manifold import TSNE

    scaled = features.astype(np.float64)
    components = PCA(min(COMPONENTS, *scaled.shape), random_state=0).fit_transform(scaled)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(components)
    span = np.ptp(places, axis=0)
    return (places - places.min(axis=0)) / np.where(span > 0, span, 1)
