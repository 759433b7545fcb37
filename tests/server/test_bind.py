"""A server listens on all addresses of its machine only where that is what its host says."""

import socket

import pytest

from ragcache.errors import ConfigError
from server.run import bind


@pytest.mark.parametrize("host", ["", "0", "0.0", "0x0", "::0", "::ffff:0.0.0.0"])
def test_what_the_system_takes_for_all_addresses_is_refused(host):
    with pytest.raises(ConfigError, match=rf"^host is '{host}', which would listen on every address of this machine"):
        bind(host, 0).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "localhost"])
def test_an_address_that_is_written_out_is_bound(host):
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with bind(host, 0) as bound:
        assert bound.getsockname()[0] == {"localhost": "127.0.0.1"}.get(host, host)
