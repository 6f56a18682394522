import pytest
import torch


@pytest.fixture
def one_thread():
    """Let torch compute in one thread, for the same bits every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
