"""What networks with attention share: the fused operation and both kinds of positions against their definitions."""

import pytest
import torch

from unified_sess.nnet.attention import attend, relative_scores, rotate, rotations


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_relative_scores_are_those_of_each_pair_of_steps(steps):
    query, embeddings = torch.randn(2, 3, steps, 4), torch.randn(2 * steps, 4)
    scores = relative_scores(query, embeddings)
    for i in range(steps):
        for j in range(steps):
            wanted = query[:, :, i] @ embeddings[steps - (i - j)]  # the first one is the distance `steps`
            torch.testing.assert_close(scores[:, :, i, j], wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fused_attention_is_the_softmax_of_scores(dtype):
    query, key, value = torch.randn(3, 2, 2, 9, 4, dtype=dtype, requires_grad=True).unbind(0)
    bias = torch.randn(2, 2, 9, 9, dtype=dtype)
    weights = (query.double() @ key.double().transpose(2, 3) / 2 + bias.double()).softmax(3)
    y = attend(query, key, value, bias=bias)
    assert y.dtype is dtype
    torch.testing.assert_close(
        y.double(), weights @ value.double(), **({} if dtype is torch.float64 else {"atol": 0.05, "rtol": 0.05})
    )


def test_turned_products_depend_on_the_distance_alone():
    x, turns = torch.randn(2, 8, dtype=torch.float64), rotations(12, 8, "cpu").to(torch.complex128)
    query, key = (rotate(y.expand(12, 8).contiguous(), turns) for y in x)
    scores = query @ key.T
    for distance in range(12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert scores[0].std() > 1e-3


def test_the_first_pair_turns_by_a_radian_a_step():
    turned = rotate(torch.tensor([1.0, 0.0, 1.0, 0.0]).repeat(3, 1), rotations(3, 4, "cpu"))
    angles = torch.atan2(turned[:, 1::2], turned[:, ::2])
    torch.testing.assert_close(angles, torch.arange(3.0).unsqueeze(1) * torch.tensor([1.0, 0.01]))
