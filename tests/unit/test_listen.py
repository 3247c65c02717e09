"""Where `serve` listens."""

from __future__ import annotations

import contextlib
import socket

import pytest

from api.serving import CantListen, is_loopback, listen


def test_localhost_is_one_port_on_each_of_its_addresses() -> None:
    sockets = listen("localhost", 0)
    with contextlib.ExitStack() as stack:
        for bound in sockets:
            stack.enter_context(bound)
        assert len({bound.getsockname()[1] for bound in sockets}) == 1
        assert all(is_loopback(bound.getsockname()[0]) for bound in sockets)


def test_a_slow_reader_is_noticed_after_what_the_kernel_buffers() -> None:
    (bound,) = listen("127.0.0.1", 0)
    with bound:
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * 64 * 1024  # Linux counts its own use too


@pytest.mark.parametrize("host", ["198.51.100.1", "nobody.invalid"])
def test_an_address_that_is_not_ours_is_refused_with_its_name(host: str) -> None:
    with pytest.raises(CantListen, match=host):
        listen(host, 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.1", False), ("localhost.example.com", False)],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
