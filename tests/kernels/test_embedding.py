import pytest
import torch

from kernels import embedding
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, run_triton


def _ids(*ids: int) -> torch.Tensor:
    return torch.tensor(ids, device=DEVICE)


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BACKWARD])
@pytest.mark.parametrize(
    ("T", "V", "H"), [(1, 1, 1), (3, 7, 1024), (5, 3, 2049), (2, 300, 17), (300, 2, 17)]
)
def test_any_shape_agrees_with_fp64(mode: Mode, T: int, V: int, H: int) -> None:
    run_triton(embedding.OP, problem("embedding", "fp32", mode, T=T, V=V, H=H))


def test_rows_come_in_the_order_of_the_ids() -> None:
    table = torch.arange(6.0, device=DEVICE).view(3, 2)
    assert embedding.embedding(table, _ids(2, 0, 2)).tolist() == [[4, 5], [0, 1], [4, 5]]


def test_gradients_of_a_repeated_id_add_up_and_rows_without_one_are_zero() -> None:
    table = torch.ones(5, 2, device=DEVICE)
    dy = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]], device=DEVICE)
    d_table = embedding.embedding_backward(dy, table, _ids(3, 1, 3))
    assert d_table.tolist() == [[0, 0], [10, 20], [0, 0], [101, 202], [0, 0]]


def test_sum_is_kept_in_fp32() -> None:
    # In bf16, 256 + 1 is 256.
    dy = torch.ones(512, 1, device=DEVICE, dtype=torch.bfloat16)
    ids = torch.zeros(512, dtype=torch.int64, device=DEVICE)
    d_table = embedding.embedding_backward(dy, dy[:2].clone(), ids)
    assert d_table.tolist() == [[512], [0]]


def test_tokens_of_one_id_are_added_in_their_order() -> None:
    # Only from left to right is the large pair gone before the one is added.
    dy = torch.tensor([[2.0**30], [-(2.0**30)], [1.0]], device=DEVICE)
    d_table = embedding.embedding_backward(dy, torch.ones(2, 1, device=DEVICE), _ids(1, 1, 1))
    assert d_table.tolist() == [[0], [1]]


def test_an_id_outside_gives_nan_and_adds_to_no_gradient() -> None:
    table = torch.ones(2, 3, device=DEVICE)
    ids = _ids(-1, 0, 2, 1 << 40)
    y = embedding.embedding(table, ids)
    assert y.isnan().all(dim=1).tolist() == [True, False, True, True]
    assert y[1].tolist() == [1, 1, 1]
    d_table = embedding.embedding_backward(torch.ones(4, 3, device=DEVICE), table, ids)
    assert d_table.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_what_the_kernel_cannot_read_is_refused() -> None:
    table = torch.zeros(4, 2, device=DEVICE)
    with pytest.raises(ValueError, match=r"ids are torch.int32, but must be torch.int64"):
        embedding.embedding(table, _ids(1).int())
    with pytest.raises(ValueError, match=r"are expected, not \(4, 2\) and \(1, 2\)"):
        embedding.embedding(table, _ids(1, 2)[None])
    with pytest.raises(ValueError, match=r"table of shape \(2, 4\) has strides \(1, 2\)"):
        embedding.embedding(table.T, _ids(1))
    with pytest.raises(ValueError, match=r"dy\[1,2\] is expected, not \(4, 2\)"):
        embedding.embedding_backward(table, table, _ids(1))


def test_cost_by_hand() -> None:
    forward = embedding.OP.cost(problem("embedding", "bf16", T=3, V=7, H=5))
    assert (forward.flops, forward.bytes_read, forward.bytes_written) == (0, 30 + 24, 30)
    backward = embedding.OP.cost(problem("embedding", "bf16", Mode.BACKWARD, T=3, V=7, H=5))
    assert (backward.flops, backward.bytes_read, backward.bytes_written) == (15, 30 + 24, 70)
