"""Silhouettes and colours of small images made by hand."""

import torch

from vae.training.image_similarity import colour_distance, silhouette, silhouette_iou

RED, BLUE, WHITE = ([1.0, 0.1, 0.1], [0.1, 0.1, 1.0], [1.0, 1.0, 1.0])


def image(*rows):
    """Return an image (3, H, W), given rows of colours."""
    return torch.tensor(rows).permute(2, 0, 1)


A = image([WHITE, RED, RED], [WHITE, BLUE, WHITE])
B = image([WHITE, WHITE, RED], [WHITE, BLUE, BLUE])


def test_a_silhouette_is_what_differs_from_the_background():
    assert silhouette(A).tolist() == [[False, True, True], [False, True, False]]
    assert silhouette(A * 0.5).tolist() == silhouette(A).tolist()
    assert not silhouette(torch.full((3, 4, 4), 0.95).index_fill(-1, torch.tensor([0]), 1.0)).any()


def test_iou_and_distance_of_known_images():
    torch.testing.assert_close(silhouette_iou(A, B), torch.tensor(2 / 4))
    torch.testing.assert_close(colour_distance(A, B), torch.tensor(1 / 3))  # 2/3 red, 1/3 blue; 1/3 red, 2/3 blue
    both = torch.stack([A, B])
    assert silhouette_iou(both, both).tolist() == [1.0, 1.0]
    assert colour_distance(both, both).tolist() == [0.0, 0.0]


def test_images_without_a_silhouette():
    bare = torch.ones(3, 2, 3)
    assert silhouette_iou(bare, bare) == 1
    assert silhouette_iou(bare, A) == 0
    assert colour_distance(bare, bare) == 0
    assert colour_distance(bare, A) == 1
