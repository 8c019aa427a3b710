"""Which addresses may be connected to when a tenant names the host: hosts on the public internet, and nothing else."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.addresses import Address, may_be_called

INSIDE = {
    "unspecified": "0.0.0.0",  # noqa: S104  an address to be refused, nothing is bound to it
    "this network": "0.1.2.3",
    "private, class A": "10.0.0.1",
    "private, class B": "172.31.255.254",
    "private, class C": "192.168.1.1",
    "shared between carriers": "100.64.0.1",
    "loopback": "127.0.0.1",
    "all of loopback": "127.255.255.254",
    "link-local": "169.254.0.1",
    "instance metadata": "169.254.169.254",
    "the Lambda runtime": "169.254.100.1",
    "protocol assignments": "192.0.0.8",
    "documentation": "192.0.2.1",
    "6to4 relays": "192.88.99.1",
    "benchmarks": "198.18.0.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified 6": "::",
    "loopback 6": "::1",
    "compatible loopback": "::127.0.0.1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "mapped public": "::ffff:8.8.8.8",
    "translated": "::ffff:0:8.8.8.8",
    "NAT64 of loopback": "64:ff9b::7f00:1",
    "NAT64 of a public address": "64:ff9b::808:808",
    "local NAT64": "64:ff9b:1::a00:1",
    "discard": "100::1",
    "Teredo": "2001:0:7f00:1::1",
    "port control": "2001:1::1",
    "AMT": "2001:3::1",
    "ORCHID": "2001:20::1",
    "documentation 6": "2001:db8::1",
    "more documentation 6": "3fff::1",
    "6to4 of loopback": "2002:7f00:1::1",
    "6to4 of a public address": "2002:808:808::1",
    "segment routing": "5f00::1",
    "unique-local": "fc00::1",
    "instance metadata 6": "fd00:ec2::254",
    "link-local 6": "fe80::1",
    "link-local of an interface": "fe80::1%eth0",
    "site-local": "fec0::1",
    "multicast 6": "ff02::1",
    "not given to anybody": "4000::1",
}


@pytest.mark.parametrize("address", INSIDE.values(), ids=INSIDE)
def test_an_address_inside_some_network_is_not_called(address: str) -> None:
    assert not may_be_called(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "52.94.236.248", "1.1.1.1", "2606:4700:4700::1111", "2600:1f00::1"])
def test_a_host_on_the_public_internet_is_called(address: str) -> None:
    assert may_be_called(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_no_private_address_gets_in_by_being_carried_in_an_ipv6_one(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    for carrier in ("::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::"):
        assert not may_be_called(ipaddress.IPv6Address(int(ipaddress.IPv6Address(carrier)) | number))
    assert not may_be_called(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))


@given(st.ip_addresses())
def test_what_is_called_is_what_the_system_would_connect_to(address: Address) -> None:
    """The text that was checked is the text that is given to `connect`, so both must mean the same address."""
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    assert socket.inet_pton(family, str(address)) == address.packed
